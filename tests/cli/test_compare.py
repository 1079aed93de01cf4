"""The command before it reads anything."""

import pytest

from nnunetv2_semisup.cli.main import main

pytestmark = pytest.mark.fast


def test_what_is_wrong_is_one_line_and_nothing_is_left(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "nowhere"), "-o", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no folder" in line
    assert list(tmp_path.iterdir()) == []

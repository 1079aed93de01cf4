"""The demo from its command to its page, on fewer and shorter steps."""

import re

import pytest

from nnunetv2_semisup.cli.main import main
from nnunetv2_semisup.evaluation import demo, demo_data

pytestmark = pytest.mark.slow


def test_demo_ends_with_one_line_a_trainer_and_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        demo, "TRAINING", demo.TRAINING | {"num_epochs": 3, "num_iterations_per_epoch": 2, "save_every": 1}
    )
    monkeypatch.setattr(demo_data, "SYNTHETIC", demo_data.SYNTHETIC | {"n_unlabeled": 3, "n_test": 2})
    folder = tmp_path / "demo output"
    assert main(["demo", "-o", str(folder), "-device", "cpu"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()[-2:]
    assert [re.match(r"(\w+) +[01]\.\d{3}( |$)", line).group(1) for line in lines] == list(demo.TRAINERS)
    assert "epoch 3 of 3" in err
    page = (folder / "index.html").read_text()
    assert "http" not in page
    assert "nnUNetv2_train 901 3d_fullres all -tr nnUNetTrainerMIReg" in page

    assert main(["demo", "-o", str(folder), "-device", "cpu"]) == 0
    again, err = capsys.readouterr()
    assert again.splitlines()[-2:] == lines
    assert err.count("done before") == 10

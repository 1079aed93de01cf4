"""The command line of `split`; how cases are chosen is tested in tests/data."""

import json

import pytest

from nnunetv2_semisup.cli.main import main
from tests.data.copies import copy_of

pytestmark = pytest.mark.fast


@pytest.fixture
def workspace(toy, tmp_path):
    workspace = copy_of(toy, tmp_path)
    (workspace.dataset_folder / "splits_final.json").unlink(missing_ok=True)
    with workspace.active():
        yield workspace


def split(*options):
    return main(["split", "-d", "901", *options])


def read(workspace, name):
    return json.loads((workspace.dataset_folder / f"splits_{name}.json").read_text())


def test_a_fold_is_written_and_printed(workspace, capsys):
    assert split("-f", "0", "--labeled", "2", "--first") == 0
    printed = capsys.readouterr().out
    fold = read(workspace, "semisup")["0"]
    train, val = (read(workspace, "final")[0][side] for side in ("train", "val"))
    assert fold == {"labeled": train[:2], "unlabeled": train[2:], "val": val}
    assert f"2 labelled ({', '.join(train[:2])}), 2 unlabelled, 1 for validation" in printed
    assert split("-f", "all", "--labeled", "2", "--first") == 0
    assert list(read(workspace, "semisup")) == ["0", "all"]
    assert split("-f", "0", "--labeled", "3", "--seed", "7", "-o", "other") == 0
    assert len(read(workspace, "other")["0"]["labeled"]) == 3


def test_dense_and_sparse_cases_are_written_and_printed(workspace, capsys):
    assert split("-f", "0", "--dense", "1", "--sparse", "2", "--first", "-o", "mixed") == 0
    fold, train = read(workspace, "mixed")["0"], read(workspace, "final")[0]["train"]
    assert (fold["dense"], fold["sparse"], fold["unlabeled"]) == (train[:1], train[1:3], train[3:])
    assert fold["labeled"] == train[:3]
    assert f"1 dense ({train[0]}), 2 sparse ({', '.join(train[1:3])}), 1 unlabelled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["-f", "0", "--labeled", "5"], "fold 0 has 4 training cases"),
        (["-f", "5", "--labeled", "1"], "folds 0 to 4"),
        (["-f", "0", "--labeled", "1", "-o", "final"], "cannot name a split file"),
        (["-f", "0", "--labeled", "1", "--group", "x"], "does not match"),
        (["-f", "0"], "--labeled N, or --dense N --sparse M"),
        (["-f", "0", "--dense", "1"], "--labeled N, or --dense N --sparse M"),
        (["-f", "0", "--labeled", "1", "--sparse", "1"], "--labeled N, or --dense N --sparse M"),
        (["-f", "0", "--labeled", "1", "--dense", "1", "--sparse", "1"], "--labeled N, or --dense N --sparse M"),
        (["-f", "0", "--dense", "2", "--sparse", "3"], "fold 0 has 4 training cases"),
    ],
)
def test_what_cannot_be_is_one_line(workspace, capsys, options, part):
    assert split(*options) == 1
    error = capsys.readouterr().err
    assert part in error
    assert len(error.splitlines()) == 1
    assert not list(workspace.dataset_folder.glob("splits_semisup.json"))


@pytest.mark.parametrize(
    "options",
    [
        ["x", "--labeled", "1"],
        ["0", "--labeled", "0"],
        ["0", "--labeled", "1", "--first", "--seed", "1"],
        ["0", "--labeled", "1", "--seed", "-1"],
        ["0", "--labeled", "1", "--seed", str(2**32)],
    ],
)
def test_wrong_usage_is_status_2(workspace, options):
    with pytest.raises(SystemExit) as error:
        split("-f", *options)
    assert error.value.code == 2

"""`plan` writes plans with settings, whole or not at all, and says in one line what it does not take."""

import pytest

from nnunetv2_semisup.cli.main import main
from tests.workspace import DATASET, Workspace

pytestmark = pytest.mark.fast


def plan(*flags: str) -> int:
    return main(["plan", "-d", DATASET[7:10], *flags])


def test_the_copy_has_the_settings_and_the_same_data(in_toy: Workspace, capsys: pytest.CaptureFixture[str]):
    assert plan("-m", "mireg", "-o", "written", "--set", "mi.weight=0.5", "--set", "training.seed=3") == 0
    assert "-tr nnUNetTrainerMIReg -p written" in capsys.readouterr().out
    ours, stock = in_toy.plans("written"), in_toy.plans()
    section = ours.pop("semisup")
    assert (section["method"], section["mi"]["weight"], section["training"]["seed"]) == ("mireg", 0.5, 3)
    assert ours == stock | {"plans_name": "written"}


def test_a_name_that_is_taken(in_toy: Workspace, capsys: pytest.CaptureFixture[str]):
    assert plan("-m", "mireg", "-o", "taken") == 0
    assert plan("-m", "mireg", "-o", "taken") == 0
    assert "there already, with the same settings" in capsys.readouterr().out
    file = in_toy.dataset_folder / "taken.json"
    before = file.read_bytes()
    assert plan("-m", "mireg", "-o", "taken", "--set", "mi.weight=0.5") == 1
    assert "exists with other settings; choose another name with -o" in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-m", "mirge"], "there is no method 'mirge'; known are: "),
        (["-m", "mireg", "--set", "mi.weigth=1"], "mi.weight"),
        (["-m", "mireg", "--set", "mi.weight"], "--set mi.weight: expected KEY=VALUE"),
        (["-m", "mireg", "--set", "mi.weight=much"], "mi.weight"),
        (["-m", "mireg", "--set", "mi.weight=-1"], "mi.weight"),
        (["-m", "mireg", "-p", "nope"], "nope.json; type: nnUNetv2_plan_and_preprocess -d "),
        (["-m", "mireg", "-o", "../outside"], "-o ../outside: the name of plans has letters"),
        (["-m", "mireg", "-o", "a__b"], "a__b: nnU-Net splits the names of models at '__'; choose another name"),
        (["-m", "mireg", "-o", "a_"], "a_: nnU-Net splits"),
    ],
)
def test_what_it_does_not_take(in_toy: Workspace, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    before = set(in_toy.root.rglob("*.json"))
    assert plan(*flags) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert words in line
    assert set(in_toy.root.rglob("*.json")) == before


@pytest.mark.parametrize(("variable", "value"), [("nnUNet_preprocessed", ""), ("nnUNet_preprocessed", "/nowhere")])
def test_variables_that_are_wrong(
    in_toy: Workspace, variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv(variable, value)
    assert plan("-m", "mireg") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(f"type: export {variable}=FOLDER")


def test_a_dataset_that_does_not_exist(in_toy: Workspace, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "-d", "17", "-m", "mireg"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "error: -d 17: Could not find a dataset with the ID 17; type: nnUNetv2_semisup doctor" in line

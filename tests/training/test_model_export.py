"""An exported model is stock nnU-Net's own, and predicts what ours predicts."""

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.model_sharing.model_import import install_model_from_zip_file

from nnunetv2_semisup.cli.main import main
from nnunetv2_semisup.cli.trainers import extension_folder
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.training.checkpoint_reading import read_checkpoint
from nnunetv2_semisup.training.model_export import FINAL, RECORD, export_model
from tests.workspace import DATASET, TINY

HIDE_PLUGIN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "nnunetv2_semisup":
            raise ModuleNotFoundError(f"{name} is hidden", name=name)
sys.meta_path.insert(0, Hidden())
"""
PREDICT = """
from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder
predict_entry_point_modelfolder()
"""


CONFIGURATION = "3d_fullres"


def train(toy, name: str) -> Path:
    """Train fold 0 to its end, and leave a fold 1 that is not finished. Returns the model folder."""
    with toy.active():
        trainer = toy.trainer(name, TINY, plans_name="export")
        trainer.run_training()
    model = Path(trainer.output_folder_base)
    (model / "fold_1").mkdir()
    shutil.copyfile(model / "fold_0" / FINAL, model / "fold_1" / "checkpoint_latest.pth")
    return model


@pytest.fixture(scope="module")
def mireg(toy) -> Path:
    return train(toy, "nnUNetTrainerMIReg")


@pytest.fixture(scope="module")
def labeled_only(toy) -> Path:
    return train(toy, "nnUNetTrainerLabeledOnly")


@pytest.fixture
def copy(mireg: Path, tmp_path: Path) -> Path:
    """A model folder that a test may damage."""
    return Path(shutil.copytree(mireg, tmp_path / mireg.name))


def refuse(match: str, model: Path, target: Path, *flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with one line and status 1, and leaves no trace of the target."""
    before = sorted(target.parent.iterdir())
    assert main(["export", "-m", str(model), "-o", str(target), *flags]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert match in lines[0]
    assert sorted(target.parent.iterdir()) == before


def predict(model: Path, images: Path, target: Path, environment: dict[str, str], program: str) -> None:
    """Stock prediction on the CPU, in a process of its own, with probabilities."""
    command = [sys.executable, "-c", program, "-m", model, "-f", "0", "-i", images, "-o", target]
    flags = ["-device", "cpu", "-npp", "1", "-nps", "1", "--save_probabilities"]
    subprocess.run([*map(str, command), *flags], env=environment, capture_output=True, check=True)


def test_predictions_without_the_plugin_are_identical(toy, mireg: Path, tmp_path: Path):
    images = toy.root / "raw" / DATASET / "imagesTs"
    assert main(["export", "-m", str(mireg), "-o", str(tmp_path / "exported")]) == 0
    bare = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet_")}
    with_plugin = bare | {"nnUNet_extTrainer": str(extension_folder())}

    predict(mireg, images, tmp_path / "ours", with_plugin, PREDICT)
    predict(tmp_path / "exported", images, tmp_path / "theirs", bare, HIDE_PLUGIN + PREDICT)

    files = sorted((tmp_path / "ours").glob("*.npz"))
    assert files
    for file in files:
        theirs = np.load(tmp_path / "theirs" / file.name)["probabilities"]
        assert np.array_equal(np.load(file)["probabilities"], theirs)


def test_the_export_holds_stock_keys_only(mireg: Path, tmp_path: Path):
    exported = export_model(mireg, tmp_path / "out", None, "student", as_zip=False)
    assert exported.folds == ("0",)
    names = sorted(str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert names == ["dataset.json", "dataset_fingerprint.json", f"fold_0/{FINAL}", "plans.json", RECORD]

    ours = read_checkpoint(mireg / "fold_0" / FINAL)
    stock = read_checkpoint(tmp_path / "out" / "fold_0" / FINAL)
    assert stock.keys() == ours.keys() - {"semisup"}
    assert stock["trainer_name"] == "nnUNetTrainer"
    assert not [key for key in stock["logging"] if "/" in key]
    assert len(stock["logging"]["train_losses"]) == TINY["training"]["num_epochs"]
    assert all(torch.equal(stock["network_weights"][key], value) for key, value in ours["network_weights"].items())
    everything = json.dumps(stock["init_args"]["plans"]) + (tmp_path / "out" / "plans.json").read_text()
    assert "semisup" not in everything

    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["method"] == "mireg"
    assert record["weights"] == "student"
    assert record["epochs"] == {"0": 3}
    assert record["settings"]["training"]["num_epochs"] == 3


def test_the_teacher_is_exported_when_asked_for(mireg: Path, tmp_path: Path):
    export_model(mireg, tmp_path / "out", ["0"], "teacher", as_zip=False)
    ours = read_checkpoint(mireg / "fold_0" / FINAL)
    exported = read_checkpoint(tmp_path / "out" / "fold_0" / FINAL)["network_weights"]
    teacher = ours["semisup"]["modules"]["teacher"]
    assert exported.keys() == ours["network_weights"].keys()
    assert all(torch.equal(exported[key], value) for key, value in teacher.items())
    assert not all(torch.equal(exported[key], value) for key, value in ours["network_weights"].items())
    assert json.loads((tmp_path / "out" / RECORD).read_text())["weights"] == "teacher"


def test_the_zip_installs_with_stock(mireg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    exported = export_model(mireg, tmp_path / "model", None, "student", as_zip=True)
    assert exported.path == tmp_path / "model.zip"
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    install_model_from_zip_file(str(exported.path))
    installed = tmp_path / "results" / DATASET / f"nnUNetTrainer__export__{CONFIGURATION}"
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(installed), None)
    assert predictor.trainer_name == "nnUNetTrainer"


def test_what_cannot_be_exported_is_refused(
    mireg: Path, labeled_only: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    target = tmp_path / "out"
    refuse("is no model folder", mireg / "fold_0", target, capsys=capsys)
    refuse("fold 1 of", mireg, target, "-f", "0", "1", capsys=capsys)
    refuse("holds no teacher", labeled_only, target, "--weights", "teacher", capsys=capsys)
    target.mkdir()
    (target / "precious").touch()
    refuse("exists already", mireg, target, capsys=capsys)
    assert (target / "precious").exists()


def test_an_empty_folder_is_a_fine_target(mireg: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    export_model(mireg, tmp_path / "out", None, "student", as_zip=False)
    assert (tmp_path / "out" / "plans.json").exists()


def test_a_truncated_checkpoint_is_refused(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = copy / "fold_0" / FINAL
    file.write_bytes(file.read_bytes()[:5000])
    refuse("truncated", copy, tmp_path / "out", capsys=capsys)
    refuse("truncated", copy, tmp_path / "out.zip", "--zip", capsys=capsys)


def test_a_stock_checkpoint_is_refused(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = copy / "fold_0" / FINAL
    checkpoint = read_checkpoint(file)
    del checkpoint["semisup"]
    torch.save(checkpoint | {"trainer_name": "nnUNetTrainer"}, file)
    refuse("not by a trainer of nnunetv2_semisup", copy, tmp_path / "out", capsys=capsys)


def test_a_full_disk_leaves_nothing(mireg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(SemiSupervisedError, match="No space left on device"):
        export_model(mireg, tmp_path / "out", None, "student", as_zip=False)
    assert list(tmp_path.iterdir()) == []


def test_zip_members_lie_below_one_dataset(mireg: Path, tmp_path: Path):
    exported = export_model(mireg, tmp_path / "model.zip", None, "student", as_zip=True)
    assert {name.split("/")[0] for name in zipfile.ZipFile(exported.path).namelist()} == {DATASET}

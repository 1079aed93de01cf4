"""`clusters`: one command, and one line for everything that keeps it from working."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2_semisup.cli.main import main
from tests.evaluation.clusters.models import make_model
from tests.workspace import DATASET, TINY


@pytest.fixture(scope="module")
def model(toy) -> Path:
    return make_model(toy, name="command")


@pytest.fixture
def images(toy, tmp_path: Path) -> Path:
    """A folder of one image that a test may spoil."""
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(toy.root / "raw" / DATASET / "imagesTs" / "test_000_0000.nii.gz", folder)
    return folder


@pytest.fixture
def refused(model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Run the command, which must end with one line and leave nothing; returns the line."""

    def run(*, m: Path = model, f: str = "0", i: Path = images, o: Path | None = None) -> str:
        before = sorted(tmp_path.rglob("*"))
        target = o or tmp_path / "out"
        capsys.readouterr()
        assert main(["clusters", "-m", str(m), "-f", f, "-i", str(i), "-o", str(target), "-device", "cpu"]) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nnUNetv2_semisup:")]
        assert len(lines) == 1
        assert "unexpected" not in lines[0]
        assert sorted(tmp_path.rglob("*")) == before
        return lines[0]

    return run


def test_it_says_what_it_wrote(toy, model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = tmp_path / "out"
    with toy.active():
        arguments = ["-m", str(model), "-f", "0", "-i", str(images), "-o", str(target), "-device", "cpu"]
        assert main(["clusters", *arguments]) == 0
    assert capsys.readouterr().out == (
        f"maps of 1 case(s), 1 of them with labels, in {target}\nOpen {target / 'clusters.html'}\n"
    )
    assert (target / "test_000.nii.gz").exists()


def test_models_without_clusters(toy, model: Path, tmp_path: Path, refused):
    assert "is no model folder: it holds no plans.json" in refused(m=model / "fold_0")
    assert "is no model folder" in refused(m=tmp_path / "nowhere")
    assert "has no fold 3; give -f one of: 0" in refused(f="3")
    with toy.active():
        trainer = toy.trainer("nnUNetTrainerMIReg", TINY, plans_name="none")
        trainer.initialize()
        trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    other = Path(trainer.output_folder_base)
    for name in ("plans.json", "dataset.json"):
        shutil.copy(model / name, other)
    line = refused(m=other)
    assert "was trained by nnUNetTrainerMIReg" in line
    assert "nnUNetTrainerBIMPretrain or nnUNetTrainerBIM" in line


def test_checkpoints_that_cannot_be_used(model: Path, tmp_path: Path, refused):
    copy = Path(shutil.copytree(model, tmp_path / model.name))
    file = copy / "fold_0" / "checkpoint_final.pth"
    whole = file.read_bytes()
    checkpoint = torch.load(file, weights_only=False)
    del checkpoint["semisup"]["modules"]["heads"]["0.heads.1.layers.bias"]
    torch.save(checkpoint, file)
    assert "does not fit" in refused(m=copy)
    file.write_bytes(whole[:5000])
    assert "is truncated or no checkpoint" in refused(m=copy)
    file.unlink()
    assert "holds no checkpoint" in refused(m=copy)


def test_images_that_do_not_fit(images: Path, tmp_path: Path, refused):
    file = images / "test_000_0000.nii.gz"
    assert "there is no folder" in refused(i=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refused(i=tmp_path / "empty")

    second = images / "test_000_0001.nii.gz"
    shutil.copy(file, second)
    assert "test_000 in" in (line := refused())
    assert "has 2 channel(s), the model takes 1" in line
    second.unlink()

    other = images / "scan_0000.nrrd"
    sitk.WriteImage(sitk.ReadImage(str(file)), str(other))
    assert "the dataset's images end in .nii.gz; convert the file" in refused()
    other.unlink()

    flat = images / "flat_0000.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((8, 8), np.float32)), str(flat))
    assert "flat_0000.nii.gz is 2D" in refused()
    flat.unlink()

    file.write_bytes(file.read_bytes()[:2000])
    assert "test_000_0000.nii.gz cannot be read: the file is truncated or damaged" in refused()


def test_a_target_that_exists_is_not_touched(tmp_path: Path, refused):
    target = tmp_path / "full"
    target.mkdir()
    (target / "precious").touch()
    assert "exists already; remove it or give another name with -o" in refused(o=target)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["-m", str(model), "-f", "0", "-i", str(images), "-o", str(tmp_path / "out"), "-device", "cuda"]
    assert main(["clusters", *arguments]) == 1
    assert "there is no CUDA device; type -device cpu" in capsys.readouterr().err

"""The doctor names each thing that is broken, and what to type."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunetv2_semisup.cli import doctor
from nnunetv2_semisup.cli.trainers import extension_folder
from nnunetv2_semisup.methods import trainer_names

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.fixture
def variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All four variables as they should be."""
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("nnUNet_extTrainer", str(extension_folder()))
    return tmp_path


def page(overlay: Path | None = None) -> tuple[int, str]:
    """Run the doctor in a process of its own, with what lies in `overlay` in front of the installed packages."""
    environment = dict(os.environ, PYTHONPATH=str(overlay or ""))
    command = [sys.executable, "-m", "nnunetv2_semisup.cli.main", "doctor"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def broken(shown: str) -> list[tuple[str, str]]:
    """(what is broken, what to type) for every broken line."""
    lines = shown.splitlines()
    return [
        (line.removeprefix("  BROKEN  "), lines[i + 1].strip().removeprefix("type: "))
        for i, line in enumerate(lines)
        if line.startswith("  BROKEN")
    ]


def pretend_version(overlay: Path, name: str, version: str, *requires: str) -> None:
    """Package metadata that stands in front of the installed one."""
    folder = overlay / f"{name}-{version}.dist-info"
    folder.mkdir()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")


def test_a_good_installation(variables: Path):
    status, shown = page()
    assert broken(shown) == []
    assert status == 0
    for name in ("nnunetv2 ", "torch ", "torchvision ", "CUDA", *FOLDERS, "nnUNet_extTrainer = ", *trainer_names()):
        assert name in shown


def test_nnunet_too_old(variables: Path, tmp_path: Path):
    pretend_version(tmp_path, "nnunetv2", "2.5.1")
    status, shown = page(tmp_path)
    assert status == 1
    [(what, remedy)] = broken(shown)
    assert what.startswith("nnunetv2 2.5.1 does not go with nnunetv2-semisup")
    assert remedy == "pip install --upgrade 'nnunetv2>=2.8.1'"


def test_torchvision_of_another_torch(variables: Path, tmp_path: Path):
    pretend_version(tmp_path, "torchvision", "0.20.0", "torch==2.5.0")
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    status, shown = page(tmp_path)
    assert status == 1
    (what, remedy), (lookup, _) = broken(shown)
    assert "does not go with torchvision 0.20.0, which needs torch==2.5.0" in what
    assert remedy == "pip install --upgrade 'torch>=2.6' torchvision"
    assert "operator torchvision::nms does not exist" in lookup
    assert str(package / "__init__.py") in lookup


def test_nnunet_that_cannot_be_imported(variables: Path, tmp_path: Path):
    package = tmp_path / "nnunetv2"
    package.mkdir()
    (package / "__init__.py").write_text("import a_module_that_nobody_has\n")
    status, shown = page(tmp_path)
    assert status == 1
    (what, _), (lookup, remedy) = broken(shown)
    assert what.startswith("nnunetv2 2")
    assert "No module named 'a_module_that_nobody_has'" in what
    assert str(package / "__init__.py") in lookup
    assert remedy == "pip install --upgrade a_module_that_nobody_has"


def test_unset_and_wrong_variables(variables: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("nnUNet_raw")
    monkeypatch.setenv("nnUNet_preprocessed", str(variables / "nowhere"))
    monkeypatch.setenv("nnUNet_results", "/proc")
    monkeypatch.setenv("nnUNet_extTrainer", str(extension_folder().parents[1]))
    found = [(finding.text, finding.remedy) for finding in doctor.variables()]
    assert found == [
        ("nnUNet_raw is not set", "export nnUNet_raw=FOLDER"),
        (
            f"nnUNet_preprocessed = {variables}/nowhere: there is no such folder",
            f'mkdir -p "{variables}/nowhere"',
        ),
        (
            "nnUNet_results = /proc: cannot be written",
            "export nnUNet_results=FOLDER   (one that you may write to)",
        ),
        (
            f"nnUNet_extTrainer = {extension_folder().parents[1]}: does not name {extension_folder()}",
            'export nnUNet_extTrainer="$(nnUNetv2_semisup trainers)"',
        ),
    ]


def test_trainers_are_looked_up_although_the_variable_is_unset(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    found = list(doctor.trainers())
    assert [finding.text.split()[0] for finding in found] == trainer_names()
    assert not any(finding.remedy for finding in found)
    assert "nnUNet_extTrainer" not in os.environ


def test_someone_elses_broken_module_is_named(variables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "broken.py").write_text("\nraise ValueError('theirs')\n")
    monkeypatch.setenv("nnUNet_extTrainer", f"{theirs}{os.pathsep}{extension_folder()}")
    [finding] = doctor.trainers()
    assert f"ValueError: theirs ({theirs / 'broken.py'}:2)" in finding.text
    assert finding.remedy

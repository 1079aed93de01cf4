"""nnU-Net's own look-up finds every trainer through the folder that the command prints."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunetv2_semisup.cli.main import main
from nnunetv2_semisup.cli.trainers import extension_folder
from nnunetv2_semisup.methods import method_of, methods, trainer_class, trainer_names

pytestmark = pytest.mark.fast


def test_it_prints_the_folder_and_nothing_else(capsys: pytest.CaptureFixture[str]):
    assert main(["trainers"]) == 0
    shown = capsys.readouterr()
    folder = Path(shown.out.removesuffix("\n"))
    assert folder.is_absolute()
    assert [file.name for file in folder.glob("nnunetv2*.py")] == ["nnunetv2_semisup_trainers.py"]
    assert shown.err == ""


@pytest.mark.parametrize("name", trainer_names())
def test_nnunet_finds_the_installed_class(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(extension_folder()))
    found = recursive_find_trainer_class_by_name(name)
    assert found.__name__ == name
    assert found.__module__ == f"nnunetv2_semisup.trainers.{name}"
    assert recursive_find_trainer_class_by_name(name) is found
    assert pickle.loads(pickle.dumps(found)) is found
    assert trainer_class(name) is found


def test_a_users_subclass_is_found_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine.py").write_text(
        "from nnunetv2_semisup.trainers.nnUNetTrainerMIReg import nnUNetTrainerMIReg\n\n\n"
        "class nnUNetTrainerMine(nnUNetTrainerMIReg):\n    pass\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", f"{extension_folder()}{os.pathsep}{tmp_path}")
    mine = recursive_find_trainer_class_by_name("nnUNetTrainerMine")
    assert mine.__mro__[1] is recursive_find_trainer_class_by_name("nnUNetTrainerMIReg")


def test_a_lookup_that_passes_through_imports_no_trainer():
    code = (
        "import sys, pkgutil, importlib\n"
        f"sys.path.insert(0, {str(extension_folder())!r})\n"
        "shim = importlib.import_module('nnunetv2_semisup_trainers')\n"
        "print(hasattr(shim, 'nnUNetTrainerOfSomeoneElse'), 'torch' in sys.modules, dir(shim))\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == f"False False {trainer_names()}"


def test_every_method_has_a_trainer_and_a_preset():
    import nnunetv2_semisup.plans

    presets = {file.stem for file in Path(nnunetv2_semisup.plans.__path__[0]).glob("*.toml")}
    assert methods().keys() == presets
    assert methods()["mireg"] == "nnUNetTrainerMIReg"
    assert method_of("nnUNetTrainerLabeledOnly") == "labeledonly"

"""The doctor names each thing that is broken, and what to type."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_semisup.cli import doctor
from nnunetv2_semisup.cli.main import main
from nnunetv2_semisup.cli.trainers import extension_folder
from nnunetv2_semisup.methods import trainer_names
from tests.workspace import DATASET, Workspace

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


def network_of(plans: dict[str, Any], configuration: str = "3d_fullres", channels: int = 1) -> torch.nn.Module:
    manager = PlansManager(plans).get_configuration(configuration)
    return get_network_from_plans(
        manager.network_arch_class_name, manager.network_arch_init_kwargs,
        manager.network_arch_init_kwargs_req_import, channels, 7, allow_init=False,
    )  # fmt: skip


def save(file: Path, weights: Any, plans: dict[str, Any] | None = None, configuration: str = "3d_fullres") -> Path:
    """A checkpoint as nnU-Net writes it, as far as weights and their origin go."""
    origin = {} if plans is None else {"init_args": {"plans": plans, "configuration": configuration}}
    torch.save({"network_weights": weights, "trainer_name": "nnUNetTrainer"} | origin, file)
    return file


def changed(plans: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """Plans whose network has other arguments."""
    plans = copy.deepcopy(plans)
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(kwargs)
    return plans


def two_stages(plans: dict[str, Any]) -> torch.nn.Module:
    kwargs = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    lists = {key: value[:-1] for key, value in kwargs.items() if isinstance(value, list)}
    return network_of(changed(plans, **lists | {"n_stages": 2}))


def residual(plans: dict[str, Any]) -> torch.nn.Module:
    plans = copy.deepcopy(plans)
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["network_class_name"] = architecture["network_class_name"].replace("PlainConv", "ResidualEncoder")
    kwargs = architecture["arch_kwargs"]
    kwargs["n_blocks_per_stage"] = kwargs.pop("n_conv_per_stage")
    return network_of(plans)


KERNELS = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
REFUSED: dict[str, tuple[Callable[[dict[str, Any]], torch.nn.Module], str]] = {
    "channels": (lambda plans: network_of(plans, channels=4), "number of input channels 4 in the file, 1 here"),
    "stages": (two_stages, "number of stages 2 in the file, 3 here; features per stage 4 8 in the file, 4 8 12 here"),
    "features": (
        lambda plans: network_of(changed(plans, features_per_stage=[4, 8, 16])),
        "features per stage 4 8 16 in the file, 4 8 12 here",
    ),
    "kernels": (
        lambda plans: network_of(changed(plans, kernel_sizes=KERNELS)),
        "kernels 1x3x3 3x3x3 3x3x3 in the file, 3x3x3 here",
    ),
    "dimensions": (lambda plans: network_of(plans, "2d"), "dimensions 2 in the file, 3 here"),
    "class": (residual, "network class ResidualEncoderUNet in the file, PlainConvUNet here"),
    "foreign": (lambda plans: torch.nn.Conv3d(1, 4, 3), "network class none of nnU-Net's U-Nets in the file"),
    "no bias": (lambda plans: network_of(changed(plans, conv_bias=False)), "tensors are missing or of another shape"),
    "wrapped": (
        lambda plans: torch.nn.ModuleDict({"module": network_of(plans)}),
        "its keys begin with module., which DistributedDataParallel has put there",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_stock_refuses_are_refused_in_words(case: str, in_toy: Workspace, tmp_path: Path):
    make, words = REFUSED[case]
    plans = in_toy.plans()
    file = save(tmp_path / "weights.pth", make(plans).state_dict(), plans | {"plans_name": "theirs"})
    with pytest.raises(AssertionError):
        load_pretrained_weights(network_of(plans), file)
    [finding] = doctor.weights(file, "901", "3d_fullres", None)
    assert words in finding.text
    assert f"{file} does not fit the network of -d 901 -c 3d_fullres -p nnUNetPlans: " in finding.text
    assert finding.remedy
    assert "\n" not in finding.text + finding.remedy


def test_weights_that_stock_takes_are_accepted(in_toy: Workspace, variables: Path, tmp_path: Path, capsys):
    """Another number of classes does not matter, nor what else the file holds."""
    file = save(tmp_path / "my weights.pth", network_of(in_toy.plans()).state_dict() | {"more": torch.zeros(1)})
    load_pretrained_weights(network_of(in_toy.plans()), file)
    with in_toy.active():
        assert main(["doctor", "--weights", str(file), "-d", DATASET, "-c", "3d_fullres"]) == 0
    shown = capsys.readouterr().out
    assert f"ok      {file} fits the network of -d 901 -c 3d_fullres -p nnUNetPlans" in shown
    assert f"nnUNetv2_train 901 3d_fullres FOLD -p nnUNetPlans -pretrained_weights '{file}'" in shown
    assert "Everything is in place." in shown


def test_the_remedy_names_the_plans_that_the_weights_were_made_with(in_toy: Workspace, tmp_path: Path):
    plans = in_toy.plans()
    weights = network_of(plans, "2d").state_dict()

    def remedy(plans: dict[str, Any], configuration: str) -> str:
        file = save(tmp_path / "weights.pth", weights, plans, configuration)
        [finding] = doctor.weights(file, "901", "3d_fullres", None)
        return finding.remedy.replace(str(file), "FILE")

    train = "nnUNetv2_train 901 2d FOLD -p nnUNetPlans -pretrained_weights FILE"
    assert remedy(plans, "2d") == train
    assert remedy(plans, "3d_fullres") == "pre-train again: the plans nnUNetPlans have changed since"
    assert remedy(plans | {"dataset_name": "Dataset005_Prostate"}, "2d") == (
        "nnUNetv2_move_plans_between_datasets -s 5 -t 901 -sp nnUNetPlans -tp nnUNetPlans_of_5 && nnUNetv2_preprocess "
        "-d 901 -c 2d -plans_name nnUNetPlans_of_5 && " + train.replace("-p nnUNetPlans", "-p nnUNetPlans_of_5")
    )


def test_files_that_are_no_weights(in_toy: Workspace, tmp_path: Path):
    file = save(tmp_path / "weights.pth", network_of(in_toy.plans()).state_dict())

    def broken_line(path: Path = file, dataset: str = "901", configuration: str = "3d_fullres") -> str:
        [finding] = doctor.weights(path, dataset, configuration, None)
        assert finding.remedy
        assert "\n" not in finding.text + finding.remedy
        return finding.text

    assert "there is no checkpoint" in broken_line(tmp_path / "nowhere.pth")
    assert "have no configuration 2.5d" in broken_line(configuration="2.5d")
    assert "-d 17" in broken_line(dataset="17")
    file.write_bytes(file.read_bytes()[:3000])
    assert "is truncated or no checkpoint" in broken_line()
    torch.save({"state_dict": {}}, file)
    assert "is no nnU-Net checkpoint: it lacks one of network_weights" in broken_line()
    assert "its network_weights hold no tensor" in broken_line(save(file, {}))


def test_a_dataset_that_is_ready_and_one_that_is_not(in_toy: Workspace):
    def lines(*of: str | None) -> list[doctor.Finding]:
        return list(doctor.dataset(*of))

    plans, cases, *others = lines("901", None, None)
    assert plans.text == f"nnUNetPlans of {DATASET}"
    assert cases.text == "3d_fullres: 5 labelled cases, 3 unlabelled ones, and 5 image-only copies of labelled ones"
    assert not any(finding.remedy for finding in (plans, cases, *others))
    assert all(finding.text.startswith("3d_cascade_fullres") for finding in others)  # the same data
    assert lines(DATASET, "3d_fullres", "nnUNetPlans") == [plans, cases]
    [missing] = lines("901", None, "nope")
    assert missing.text.startswith("there are no plans ")
    assert missing.remedy.startswith("nnUNetv2_plan_and_preprocess -d 901")
    assert lines("17", None, None)[0].remedy
    assert "have no configuration 2.5d" in lines("901", "2.5d", None)[1].text
    [_, low] = lines("901", "3d_lowres", None)
    assert "holds no labelled case" in low.text
    assert low.remedy == "nnUNetv2_preprocess -d 901 -c 3d_lowres"


@pytest.mark.parametrize(
    ("flags", "advice"),
    [
        (["--weights", "f.pth"], "--weights FILE -d DATASET -c CONFIGURATION"),
        (["--weights", "f.pth", "-d", "7"], "--weights FILE -d DATASET -c CONFIGURATION"),
        (["-c", "3d_fullres"], "doctor -d 7 -c 3d_fullres"),
    ],
)
def test_wrong_usage_is_one_line(flags: list[str], advice: str, capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", *flags]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    [line] = shown.err.splitlines()
    assert advice in line

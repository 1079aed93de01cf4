"""Every row of the support list, for every method: two steps with an unlabelled term that is not 0."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_semisup.configuration.sources import merged
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.methods import methods, trainer_class
from nnunetv2_semisup.training.checkpoint_reading import read_checkpoint
from nnunetv2_semisup.training.pretraining import PretrainingTrainer
from nnunetv2_semisup.training.run_log import read_log
from tests.pretended_gpu import pretended_gpu
from tests.workspace import Workspace, make_workspace

TRAINERS = sorted(methods().values())
SEMI_SUPERVISED = [name for name in TRAINERS if name != "nnUNetTrainerLabeledOnly"]
UNSURE: dict[str, dict[str, Any]] = {
    "nnUNetTrainerFixMatch": {"pseudo_label": {"threshold": 0.0}},
    "nnUNetTrainerMixedKD": {"pseudo_label": {"threshold": 0.0}},
    "nnUNetTrainerUAMT": {"uncertainty": {"start": 1.0}},
}
"""Two steps make no network sure of anything; methods that learn from sure answers alone get by with less here."""
ONE_EPOCH = {"training": {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "seed": 2}}


def train(workspace: Workspace, name: str | type, **options: Any) -> Any:
    """One epoch at full weight; checks what every training must leave behind."""
    ours = name if isinstance(name, str) else name.__mro__[1].__name__
    settings = merged(ONE_EPOCH | UNSURE.get(ours, {}), options.pop("settings", {}))
    trainer = workspace.trainer(name, settings, **options)
    trainer.run_training()
    if trainer.regularizers:
        (row,) = read_log(Path(trainer.output_folder) / "semisup_log.csv")
        terms = {key: float(value) for key, value in row.items() if key.startswith("weighted/") and value}
        assert terms
        assert all(value != 0 for value in terms.values()), row
        assert all(float(row[key.replace("weighted", "grad")]) > 0 for key in terms), row
        assert (Path(trainer.output_folder) / "semisup_progress.png").exists()
    stored = torch.load(Path(trainer.output_folder) / "checkpoint_final.pth", weights_only=False)
    assert stored["network_weights"].keys() == stock_keys(trainer)
    assert stored["trainer_name"] == type(trainer).__name__
    return trainer


def stock_keys(trainer: Any) -> Any:
    network = nnUNetTrainer.build_network_architecture(
        trainer.plans_manager,
        trainer.configuration_manager,
        trainer.num_input_channels,
        trainer.label_manager.num_segmentation_heads,
        trainer.enable_deep_supervision,
    )
    return network.state_dict().keys()


@pytest.fixture(scope="module")
def rows(toy: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Workspace]:
    """Workspaces that hold several rows each, made when first asked for, and the toy one."""

    class Lazy(dict[str, Workspace]):
        def __missing__(self, key: str) -> Workspace:
            self[key] = make_workspace(tmp_path_factory.mktemp(key), **OPTIONS[key])
            return self[key]

    return Lazy(toy=toy)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"configurations": ("2d", "3d_lowres")},
    "anisotropic_regions_two_channels": {
        "shape": (8, 32, 32), "spacing": (6.0, 1.5, 1.5), "patch": {"3d_fullres": [8, 32, 32]}, "regions": True,
        "channels": 2,
    },
    "ignore_residual": {"ignore": True, "planner": "nnUNetPlannerResEncM", "prefix": "Fäll 1 "},
    "rgb_png": {"configurations": ("2d",), "shape": (32, 40), "channels": 3, "file_ending": ".png", "spacing": (1, 1)},
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("configuration", ["2d", "3d_lowres"])
def test_configurations(rows, name, configuration):
    with rows["plain"].active():
        train(rows["plain"], name, configuration=configuration)


@pytest.mark.parametrize("name", TRAINERS)
def test_anisotropic_plans_with_dummy_2d_regions_and_two_channels(rows, name):
    workspace = rows["anisotropic_regions_two_channels"]
    with workspace.active():
        trainer = train(workspace, name)
        assert trainer.label_manager.has_regions
        assert trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[1]
        if name == "nnUNetTrainerMIReg":
            assert trainer.settings.mi.radius == [0, 1, 1]


@pytest.mark.parametrize("name", TRAINERS)
def test_ignore_label_and_residual_encoder(rows, name):
    workspace = rows["ignore_residual"]
    with workspace.active():
        trainer = train(workspace, name)
        assert trainer.label_manager.has_ignore_label
        assert all(case.startswith("Fäll 1 ") for cases in trainer.case_lists().values() for case in cases)
        assert type(trainer.network).__name__ == "ResidualEncoderUNet"


@pytest.mark.parametrize("name", TRAINERS)
def test_rgb_png(rows, name):
    with rows["rgb_png"].active():
        trainer = train(rows["rgb_png"], name, configuration="2d")
        assert trainer.num_input_channels == 3


@pytest.mark.parametrize("name", TRAINERS)
def test_fold_all(in_toy, name):
    train(in_toy, name, fold="all", plans_name="fold_all")


@pytest.mark.parametrize("name", TRAINERS)
def test_without_deep_supervision_in_a_subclass_of_the_user(in_toy, name):
    class nnUNetTrainerMine(trainer_class(name)):  # type: ignore[misc]
        def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):  # noqa: B008
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.enable_deep_supervision = False

    trainer = train(in_toy, nnUNetTrainerMine, plans_name="mine")
    assert trainer.method() == trainer_class(name).method()


@pytest.fixture(scope="module")
def pretrained(toy: Workspace) -> Path:
    """The checkpoint of a pre-training without labels."""
    with toy.active():
        trainer = train(toy, "nnUNetTrainerBIMPretrain", plans_name="pretraining")
    return Path(trainer.output_folder) / "checkpoint_final.pth"


@pytest.mark.parametrize("name", TRAINERS)
def test_pretrained_weights_reach_network_and_teacher(in_toy, name, pretrained):
    trainer = in_toy.trainer(name, ONE_EPOCH, plans_name="pretrained")
    trainer.initialize()
    load_pretrained_weights(trainer.network, str(pretrained), verbose=False)
    trainer.on_train_start()
    expected = torch.load(pretrained, weights_only=False)["network_weights"]
    network = trainer.network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in network.items() if ".seg_layers." not in key)
    if trainer.teacher is not None:
        teacher = trainer.teacher.state_dict()
        assert all(torch.equal(teacher[key], network[key]) for key in teacher)
    if trainer.second_decoder is not None:
        # One that starts like the first would have nothing to teach.
        second = trainer.second_decoder.state_dict()
        same = {key for key in second if torch.equal(second[key], network[key])}
        assert {key for key in second if key.startswith("encoder.")} <= same < set(second)


@pytest.mark.parametrize("name", TRAINERS)
def test_worker_processes(in_toy, name):
    with in_toy.active(workers=2):
        train(in_toy, name, plans_name="workers")


@pytest.mark.parametrize("name", TRAINERS)
def test_compiled_features_call(in_toy, name, monkeypatch):
    """nnU-Net does not compile on CPU; with the eager backend the same graph is captured, in one piece."""
    # Each training of these tests counts as a recompilation, of which dynamo allows a few for one function.
    torch._dynamo.reset()
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda target, **_: compile_(target, backend=backend))
    monkeypatch.setattr(trainer_class(name), "_do_i_compile", lambda self: True)
    train(in_toy, name, plans_name="compiled")
    assert graphs


@pytest.mark.parametrize("name", SEMI_SUPERVISED)
def test_images_smaller_than_the_patch(rows, name):
    """The patch of a larger plan: padding is masked, and nothing fails."""
    workspace = rows["plain"]
    plans = workspace.plans()
    plans["configurations"]["3d_lowres"]["patch_size"] = [32, 40, 40]
    with workspace.active():
        train(workspace, name, configuration="3d_lowres", plans=plans, plans_name="large_patch")


@pytest.mark.parametrize("name", SEMI_SUPERVISED)
def test_refused_at_start_and_not_later(in_toy, name):
    results = in_toy.root / "results"
    before = sorted(results.rglob("*"))
    with pytest.raises(NotImplementedError, match="second stage of a cascade"):
        in_toy.trainer(name, plans_name="refused", configuration="3d_cascade_fullres")
    plans = in_toy.plans()
    plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "some.package.Primus"
    with pytest.raises(NotImplementedError, match="Primus"):
        in_toy.trainer(name, plans_name="refused", plans=plans)
    plans = in_toy.plans() | {"plans_name": "refused", "continue_training": False}
    with pytest.raises(NotImplementedError, match="mps"):
        trainer_class(name)(plans, "3d_fullres", 0, {}, torch.device("mps"))
    assert sorted(results.rglob("*")) == before


@pytest.mark.gpu
@pytest.mark.parametrize("name", TRAINERS)
def test_amp_and_compile_on_a_gpu(in_toy, name):
    trainer = in_toy.trainer(name, ONE_EPOCH, plans_name="gpu", device="cuda")
    trainer.run_training()
    assert all(torch.isfinite(parameter).all() for parameter in trainer.network.parameters())


DEVICE_CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, UNSURE.get(name, {})) for name in TRAINERS} | {
    "agreement": ("nnUNetTrainerSelfTraining", {"rounds": {"filter": "agreement", "network": "restart"}}),
    "rounds": ("nnUNetTrainerLocalContrast", {"contrast": {"pseudo_labels": "rounds", "form": "intra"}}),
    "own_view": ("nnUNetTrainerMIReg", {"output": {"form": "own_view"}}),
    "one_piece": ("nnUNetTrainerMIReg", {"pseudo_label": {"one_piece": [1]}}),
    "cells": ("nnUNetTrainerCrossLevel", {"contrast": {"sites": "cells", "negatives": "patch", "norm": "L1"}}),
    "contrast_first": ("nnUNetTrainerCrossLevel", {"phases": {"form": "contrast_first"}}),
    "other_view": (
        "nnUNetTrainerMixedKD",
        {"kd": {"domain": "all", "view": "other"}, "entropy": {"form": "pseudo_label"}},
    ),
    "everywhere": (
        "nnUNetTrainerMixedKD",
        {"kd": {"domain": "all"}, "pseudo_label": {"threshold": 0.0}},
    ),
    "released": ("nnUNetTrainerBIM", {"boundary": {"form": "released"}}),
}
"""Every method as it comes, and the settings that take other ways through it."""


def end_then_stop(on_epoch_end: Callable[[], None]) -> None:
    on_epoch_end()
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("case", "key"),
    [
        *product(DEVICE_CASES, ["toy", "anisotropic_regions_two_channels"]),
        *product(["nnUNetTrainerMixedKD", "other_view"], ["ignore_residual"]),
    ],
)
def test_devices_and_half_precision(rows, case, key, monkeypatch):
    """What a training keeps where, in fp16 with a gradient scaler, from its start and from its checkpoint."""
    name, other = DEVICE_CASES[case]
    settings = merged(merged(ONE_EPOCH, {"training": {"num_epochs": 2, "save_every": 1}}), other)
    workspace = rows[key]
    with workspace.active(), pretended_gpu() as gpu:
        trainer = workspace.trainer(name, settings, plans_name=f"device_{case}", device="cuda")
        monkeypatch.setattr(trainer, "on_epoch_end", partial(end_then_stop, trainer.on_epoch_end))
        with pytest.raises(KeyboardInterrupt):
            trainer.run_training()
        again = workspace.trainer(name, settings, plans_name=f"device_{case}", device="cuda", resume=True)
        again.load_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
        again.run_training()
    assert again.current_epoch == 2
    assert isinstance(again.grad_scaler, torch.amp.GradScaler)
    for module in filter(None, (again.network, again.teacher, again.second_decoder, again.peer, again.heads)):
        assert all(gpu.holds(parameter) and torch.isfinite(parameter).all() for parameter in module.parameters())


@pytest.mark.parametrize("name", SEMI_SUPERVISED)
def test_training_without_unlabelled_cases_is_refused_but_a_finished_one_is_validated(in_toy, name):
    trainer = train(in_toy, name, plans_name="val_only")
    folder = in_toy.dataset_folder
    hidden = [*folder.glob("*_unlabeled"), *folder.glob("*_unlabeled*.json")]
    for path in hidden:
        path.rename(path.with_name("hidden_" + path.name))
    try:
        with pytest.raises(SemiSupervisedError, match="nnUNetv2_semisup preprocess -d 901 -c 3d_fullres"):
            in_toy.trainer(name, ONE_EPOCH, plans_name="no_unlabelled")
        final = f"{trainer.output_folder}/checkpoint_final.pth"
        section = read_checkpoint(Path(final))["semisup"]
        settings = merged(ONE_EPOCH, UNSURE.get(name, {}))
        again = in_toy.trainer(name, settings, plans_name="val_only", resume=True)
        again.load_checkpoint(final)
        again.run_training()
        again.perform_actual_validation()
        learns_to_segment = not isinstance(again, PretrainingTrainer)
        assert (Path(again.output_folder) / "validation" / "summary.json").exists() == learns_to_segment
        assert read_checkpoint(Path(final))["semisup"]["cases"] == section["cases"]
        longer = in_toy.trainer(
            name, merged(settings, {"training": {"num_epochs": 2}}), plans_name="val_only", resume=True
        )
        for refused in (longer.load_checkpoint, lambda _: in_toy.trainer(name, plans_name="val_only").run_training()):
            with pytest.raises(SemiSupervisedError, match="nnUNetv2_semisup preprocess"):
                refused(final)
    finally:
        for path in hidden:
            path.with_name("hidden_" + path.name).rename(path)

"""Rounds of pseudo-labels: what is stored, what a kill in the middle leaves, what a restart does."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunetv2_semisup.data.pseudo_labels import UNKNOWN, open_labels, without_labels, write_labels
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.training import labeling
from nnunetv2_semisup.training.rounds import Rounds
from nnunetv2_semisup.training.unlabeled_batches import unlabeled_dataset
from tests.training.test_resume import assert_same
from tests.workspace import Workspace

LENGTH = {
    "num_epochs": 3, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "save_every": 50, "seed": 5,
}  # fmt: skip


METHODS: dict[str, dict[str, Any]] = {
    "nnUNetTrainerSelfTraining": {},
    "nnUNetTrainerLocalContrast": {"contrast": {"pseudo_labels": "rounds"}},
}


def trainer_of(
    workspace: Workspace,
    plans_name: str,
    rounds: dict[str, Any],
    resume: bool = False,
    name: str = "nnUNetTrainerSelfTraining",
) -> Any:
    settings = {"training": LENGTH, "rounds": rounds, **METHODS[name]}
    return workspace.trainer(name, settings, plans_name=plans_name, resume=resume)


class Killed(BaseException):
    """Stands for the kill: nothing catches it."""


@pytest.mark.parametrize("name", METHODS)
def test_a_kill_while_predicting_costs_the_cases_that_were_not_done_yet(in_toy, monkeypatch, name):
    whole = trainer_of(in_toy, "whole_rounds", {"count": 2}, name=name)
    whole.run_training()
    kept = Path(whole.output_folder) / "pseudo_labels"
    assert [folder.name for folder in kept.iterdir()] == ["epoch_2"]
    assert not without_labels(kept / "epoch_2", whole.cases.unlabeled)

    written = []

    def write_then_die(folder: Path, identifier: str, labels: Any) -> None:
        if len(written) == len(whole.cases.unlabeled) + 1:
            raise Killed
        write_labels(folder, identifier, labels)
        written.append((folder, identifier))

    monkeypatch.setattr(labeling, "write_labels", write_then_die)
    killed = trainer_of(in_toy, "killed_rounds", {"count": 2}, name=name)
    with pytest.raises(Killed):
        killed.run_training()
    folder, done = written[-1]
    assert folder.name == "epoch_2"
    stamp = (folder / f"{done}.b2nd").stat().st_mtime_ns

    monkeypatch.setattr(labeling, "write_labels", write_labels)
    resumed = trainer_of(in_toy, "killed_rounds", {"count": 2}, resume=True, name=name)
    resumed.initialize()
    resumed.load_checkpoint(f"{killed.output_folder}/checkpoint_latest.pth")
    assert resumed.current_epoch == 2
    resumed.run_training()
    assert (folder / f"{done}.b2nd").stat().st_mtime_ns == stamp
    # What the killed process had predicted is kept, but no longer counted.
    assert_same(whole, resumed, keys=("gradient_samples", "epochs"))
    assert 0 < resumed.cost.samples < whole.cost.samples
    for case in whole.cases.unlabeled:
        assert np.array_equal(open_labels(kept / "epoch_2", case)[:], open_labels(folder, case)[:])


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Labels are written so many times; then no byte more."""
    written = []

    def write(self: Path, data: bytes) -> int:
        if self.suffix == ".part" and self.parent.parent.name == "pseudo_labels":
            if len(written) == after:
                write_bytes(self, data[:10])
                raise OSError(28, "No space left on device")
            written.append(self)
        return write_bytes(self, data)

    write_bytes = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", write)


def test_a_disk_that_fills_leaves_the_previous_rounds_labels_in_use(in_toy, monkeypatch):
    trainer = trainer_of(in_toy, "full_disk", {"count": 2})
    folder = Path(trainer.output_folder) / "pseudo_labels"
    seen = []
    start = trainer.on_train_epoch_start
    monkeypatch.setattr(
        trainer, "on_train_epoch_start", lambda: (start(), seen.append({f.name: contents(f) for f in folder.glob("*")}))
    )
    fill_the_disk(monkeypatch, after=len(trainer.cases.unlabeled) + 1)
    trainer.run_training()
    _, first, second = seen
    assert [*first, *second] == ["epoch_1", "epoch_2"]
    assert first["epoch_1"] == second["epoch_2"]
    assert len(first["epoch_1"]) == len(trainer.cases.unlabeled)
    (line,) = [line for line in Path(trainer.log_file).read_text().splitlines() if "previous round stay in use" in line]
    assert "WARNING: cannot write pseudo-labels" in line
    assert "No space left on device" in line


def test_a_disk_that_is_full_in_the_first_round_stops_the_training_with_one_line(in_toy, monkeypatch):
    trainer = trainer_of(in_toy, "no_disk", {"count": 2})
    fill_the_disk(monkeypatch, after=1)
    with pytest.raises(SemiSupervisedError, match=r"No space left on device.*--c") as error:
        trainer.run_training()
    assert "\n" not in str(error.value)
    assert [file.suffix for file in (Path(trainer.output_folder) / "pseudo_labels" / "epoch_1").iterdir()] == [".b2nd"]
    monkeypatch.undo()
    resumed = trainer_of(in_toy, "no_disk", {"count": 2}, resume=True)
    resumed.load_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    resumed.run_training()
    assert resumed.current_epoch == 3


@pytest.mark.parametrize("name", METHODS)
def test_pseudo_labels_of_background_alone_are_warned_about_and_the_training_goes_on(in_toy, monkeypatch, name):
    labels = labeling._labels
    monkeypatch.setattr(labeling, "_labels", lambda *arguments: torch.zeros_like(labels(*arguments)))
    trainer = trainer_of(in_toy, "background", {"count": 1}, name=name)
    trainer.run_training()
    assert trainer.current_epoch == 3
    assert "WARNING: no pseudo-label has any foreground" in Path(trainer.log_file).read_text()
    assert all(torch.isfinite(parameter).all() for parameter in trainer.network.parameters())


def test_stored_labels_are_those_of_nnunets_own_prediction(in_toy):
    trainer = trainer_of(in_toy, "stored", {"count": 1})
    trainer.on_train_start()
    trainer.current_epoch = 1
    trainer.on_epoch_start()
    case = trainer.cases.unlabeled[0]
    dataset = unlabeled_dataset(trainer)
    image = torch.from_numpy(dataset.load_case(case)[0][:])
    predictor = labeling.nnUNetPredictor(device=trainer.device, allow_tqdm=False)
    trainer.set_deep_supervision_enabled(False)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, None, trainer.dataset_json, "any",
        trainer.inference_allowed_mirroring_axes,
    )  # fmt: skip
    expected = predictor.predict_sliding_window_return_logits(image).argmax(0)
    folder = Path(trainer.output_folder) / "pseudo_labels" / "epoch_1"
    assert np.array_equal(open_labels(folder, case)[0], expected.numpy())
    batch = next(trainer.dataloader_unlabeled)
    assert batch["pseudo_label"].shape == batch["valid"].shape
    assert set(batch["pseudo_label"].unique().tolist()) <= {UNKNOWN, *expected.unique().tolist(), 0, 1, 2}


def test_a_restart_begins_with_new_weights_and_the_whole_learning_rate_schedule(in_toy):
    trainer = trainer_of(in_toy, "restart", {"count": 2, "network": "restart", "filter": "agreement"})
    rates, first = [], []
    step = trainer.train_step

    def observed(batch: Any) -> Any:
        rates.append(round(trainer.optimizer.param_groups[0]["lr"], 5))
        first.append(next(trainer.network.parameters()).detach().clone())
        return step(batch)

    trainer.train_step = observed
    trainer.run_training()
    # One epoch of warm-up and two rounds of one epoch: each starts at nnU-Net's initial rate.
    assert rates == [0.01] * 6
    steps = [float((later - earlier).abs().mean()) for earlier, later in pairwise(first)]
    assert min(steps[1], steps[3]) > 5 * max(steps[0], steps[2], steps[4])
    labels = [open_labels(trainer._rounds.labels(2), case)[:] for case in trainer.cases.unlabeled]
    shares = [float((label == UNKNOWN).mean()) for label in labels]
    assert 0 < np.mean(shares) < 1


def test_the_learning_rate_warms_up_in_every_restarted_round_for_as_long_as_set(in_toy):
    settings = {"training": {"num_epochs": 10, "lr_warmup_epochs": 3}, "rounds": {"count": 1, "network": "restart"}}
    trainer = in_toy.trainer("nnUNetTrainerSelfTraining", settings, plans_name="warm_restart")
    trainer.initialize()
    factors = []
    for epoch in range(4, 10):
        trainer.lr_scheduler.step(epoch)
        factors.append(trainer.optimizer.param_groups[0]["lr"] / (0.01 * (1 - (epoch - 4) / 6) ** 0.9))
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


@pytest.mark.fast
def test_phases_and_folders():
    from nnunetv2_semisup.regularizers.rounds import RoundSettings

    rounds = Rounds.of(RoundSettings(count=3, network="restart", filter="none"), 10, 0.4, Path("fold_0"))
    assert rounds.starts == (4, 6, 8)
    assert [rounds.phase(epoch) for epoch in (0, 3, 4, 7, 9)] == [(0, 4), (0, 4), (4, 6), (6, 8), (8, 10)]
    folders = [rounds.labels(epoch) for epoch in (3, 4, 9)]
    assert folders == [None, Path("fold_0/pseudo_labels/epoch_4"), Path("fold_0/pseudo_labels/epoch_8")]


@pytest.mark.fast
def test_a_file_of_labels_is_whole_or_absent(tmp_path):
    labels = np.random.default_rng(0).integers(-1, 3, (4, 5, 6))
    write_labels(tmp_path / "epoch_4", "case a", labels)
    assert [file.name for file in (tmp_path / "epoch_4").iterdir()] == ["case a.b2nd"]
    assert np.array_equal(open_labels(tmp_path / "epoch_4", "case a")[:, 1:3, 2:], labels[None, 1:3, 2:])
    assert without_labels(tmp_path / "epoch_4", ["case a", "case b"]) == ["case b"]

"""Rounds of pseudo-labels in a training: predict and store, then train on what was stored."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import distributed

from nnunetv2_semisup.data.pseudo_labels import without_labels
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.networks.ema import make_teacher
from nnunetv2_semisup.networks.features import unwrapped
from nnunetv2_semisup.regularizers.phases import phase_ends
from nnunetv2_semisup.regularizers.rounds import RoundSettings, round_starts
from nnunetv2_semisup.training.checkpoint import MEND
from nnunetv2_semisup.training.distributed import broadcast, is_distributed
from nnunetv2_semisup.training.fold_files import LATEST
from nnunetv2_semisup.training.labeling import label_cases
from nnunetv2_semisup.training.peer import new_network
from nnunetv2_semisup.training.unlabeled_batches import unlabeled_dataset

FOLDER = "pseudo_labels"
"""In the fold's folder; one folder for each round, of which the last complete one is kept."""


@dataclass(frozen=True)
class Rounds:
    """When the rounds of one training begin, and where their labels lie.

    Attributes:
        settings: how many, and what happens at each.
        starts: epochs at which they begin.
        end: epoch at which the training ends.
        folder: of the fold.
    """

    settings: RoundSettings
    starts: tuple[int, ...]
    end: int
    folder: Path

    @classmethod
    def of(cls, settings: RoundSettings, num_epochs: int, warmup: float, folder: Path) -> Rounds:
        """The rounds after a warm-up of this share of the epochs."""
        warmup_epochs, _ = phase_ends(num_epochs, warmup, 0.0)
        return cls(settings, round_starts(num_epochs, warmup_epochs, settings.count), num_epochs, folder / FOLDER)

    def labels(self, epoch: int) -> Path | None:
        """Folder of the labels that this epoch trains on; None before the first round."""
        # Not by the number of the round, which in an extended training begins elsewhere.
        begun = [start for start in self.starts if start <= epoch]
        return self.folder / f"epoch_{begun[-1]}" if begun else None

    def phase(self, epoch: int) -> tuple[int, int]:
        """First epoch of the round (or the warm-up) that this epoch belongs to, and the first after it."""
        edges = (0, *self.starts, self.end)
        return max(e for e in edges if e <= epoch), min(e for e in edges if e > epoch)

    def weights_begun(self, epoch: int) -> int:
        """Epoch at which the weights that this epoch trains were new."""
        return self.phase(epoch)[0] if self.settings.network == "restart" else 0


class RestartedSchedule:
    """nnU-Net's whole learning-rate schedule in every round, and in the warm-up before."""

    def __init__(self, schedule: Any, rounds: Rounds) -> None:
        """Stand before `schedule`, whose length is that of the training."""
        self._schedule = schedule
        self._rounds = rounds

    def step(self, epoch: int) -> None:
        """Set the learning rate of this epoch."""
        first, end = self._rounds.phase(epoch)
        self._schedule.step((epoch - first) * self._rounds.end / (end - first))


def begin_round(trainer: Any, rounds: Rounds, resumed: bool) -> Path:
    """Predict every unlabelled case; returns the folder of the labels.

    A checkpoint of the end of the previous epoch is written, so that a training that is killed while it
    predicts continues with the same weights and keeps what it has predicted. Where the labels cannot be written, those
    of the previous round stay in use; in the first round SemiSupervisedError says so.

    Args:
        trainer: the engine, between two epochs.
        rounds: of which one begins at the trainer's epoch.
        resumed: whether the training has just been continued at this epoch.
    """
    folder = rounds.labels(trainer.current_epoch)
    previous = rounds.labels(trainer.current_epoch - 1)
    assert folder is not None
    if trainer.local_rank == 0 and not resumed:
        _keep_only(rounds.folder, previous)
        _save_end_of_previous_epoch(trainer)
    if problem := _label_missing(trainer, rounds, folder):
        if previous is None or not previous.exists():
            raise SemiSupervisedError(f"{problem}; {MEND}")
        trainer.print_to_log_file(f"WARNING: {problem}; the pseudo-labels of the previous round stay in use")
        _barrier()
        if trainer.local_rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            previous.rename(folder)
    _barrier()
    if trainer.local_rank == 0:
        _keep_only(rounds.folder, folder)
    # Once more, with what the predictions have cost.
    _save_end_of_previous_epoch(trainer)
    if rounds.settings.network == "restart":
        _restart(trainer)
    return folder


def resume_round(trainer: Any, rounds: Rounds) -> Path | None:
    """In the middle of a round, the folder of its labels, predicted again where they are gone; None elsewhere."""
    if trainer.current_epoch in rounds.starts:
        return None
    folder = rounds.labels(trainer.current_epoch)
    if folder is not None and (problem := _label_missing(trainer, rounds, folder)):
        raise SemiSupervisedError(f"{problem}; {MEND}")
    return folder


def _keep_only(folder: Path, kept: Path | None) -> None:
    """Remove the labels of all rounds but one."""
    for round_ in folder.glob("*"):
        if round_ != kept:
            shutil.rmtree(round_, ignore_errors=True)


def _label_missing(trainer: Any, rounds: Rounds, folder: Path) -> str | None:
    """Predict the cases without a label in this folder, shared among the processes, with the teacher where one is.

    Returns, in every process, what is wrong where a label could not be written.
    """
    _barrier()
    dataset = unlabeled_dataset(trainer)
    started = time.time()
    cases = without_labels(folder, dataset.identifiers)
    trainer.print_to_log_file(f"Predicting pseudo-labels of {len(cases)} unlabelled cases into {folder}")
    mine = cases[distributed.get_rank() :: distributed.get_world_size()] if is_distributed() else cases
    agreement = rounds.settings.filter == "agreement"
    reason = ""
    try:
        label_cases(trainer, trainer.teacher or trainer.network, dataset, mine, folder, agreement)
    except OSError as error:
        reason = f" ({error.strerror})"
    _barrier()
    trainer.cost.seconds += time.time() - started
    return f"cannot write pseudo-labels into {folder}{reason}" if without_labels(folder, dataset.identifiers) else None


def _save_end_of_previous_epoch(trainer: Any) -> None:
    if trainer.current_epoch == 0:
        return
    # nnU-Net stores the number that follows the current epoch, since it saves before it counts on.
    trainer.current_epoch -= 1
    try:
        trainer.save_checkpoint(str(Path(trainer.output_folder) / LATEST))
    finally:
        trainer.current_epoch += 1


def _restart(trainer: Any) -> None:
    """New initial weights from the trainer's streams, and an optimiser without memory."""
    network = unwrapped(trainer.network)
    with trainer.streams.active():
        network.load_state_dict(new_network(trainer).state_dict())
    broadcast(network)
    trainer.optimizer.state.clear()
    if trainer.teacher is not None:
        trainer.teacher = make_teacher(network)


def _barrier() -> None:
    if is_distributed():
        distributed.barrier()

"""Kill and --c equals an uninterrupted run; the same seed gives the same numbers."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunetv2_semisup.configuration.sources import merged
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.methods import methods
from nnunetv2_semisup.training.checkpoint import refuse_changes, restore_random_states
from nnunetv2_semisup.training.run_log import read_log
from tests.workspace import Workspace

LENGTH = {
    "training": {
        "num_epochs": 4,
        "num_iterations_per_epoch": 2,
        "num_val_iterations_per_epoch": 1,
        "save_every": 1,
        "seed": 5,
    }
}


def run(workspace: Workspace, trainer_name: str, plans_name: str, **options: Any) -> Any:
    trainer = workspace.trainer(trainer_name, LENGTH, plans_name=plans_name, **options)
    trainer.run_training()
    return trainer


def losses(trainer: Any) -> list[float]:
    return [float(loss) for loss in trainer.logger.get_value("train_losses", None)]


def assert_same(ours: Any, theirs: Any, keys: tuple[str, ...] = ("samples", "gradient_samples", "epochs")) -> None:
    """Losses, weights, log, and these entries of the cost."""
    assert losses(ours) == losses(theirs)
    for name in ("network", "heads", "teacher", "second_decoder", "peer"):
        a, b = (getattr(trainer, name) for trainer in (ours, theirs))
        assert (a is None) == (b is None)
        if a is not None:
            assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True)), name
    for key in keys:
        assert getattr(ours.cost, key) == getattr(theirs.cost, key)
    if ours.run_log is not None:
        assert read_log(ours.run_log.file) == read_log(theirs.run_log.file)


class Killed(BaseException):
    """Stands for the kill: nothing catches it."""


@pytest.mark.parametrize("trainer_name", sorted(methods().values()))
def test_a_killed_run_goes_on_exactly(in_toy, trainer_name, monkeypatch):
    whole = run(in_toy, trainer_name, f"whole_{trainer_name}")

    trainer = in_toy.trainer(trainer_name, LENGTH, plans_name=f"killed_{trainer_name}")
    epoch_start = trainer.on_train_epoch_start

    def die_in_epoch_2() -> None:
        epoch_start()
        if trainer.current_epoch == 2:
            trainer.train_step(next(trainer.dataloader_train))
            raise Killed

    monkeypatch.setattr(trainer, "on_train_epoch_start", die_in_epoch_2)
    with pytest.raises(Killed):
        trainer.run_training()

    resumed = in_toy.trainer(trainer_name, LENGTH, plans_name=f"killed_{trainer_name}", resume=True)
    resumed.load_checkpoint(f"{resumed.output_folder}/checkpoint_latest.pth")
    assert resumed.current_epoch == 2
    resumed.run_training()
    assert_same(resumed, whole)
    again = run(in_toy, trainer_name, f"again_{trainer_name}")
    assert_same(again, whole)


def test_the_own_view_variant_goes_on_exactly_too(in_toy):
    settings = merged(LENGTH, {"output": {"form": "own_view"}, "mi": {"head": "mlp"}})
    runs = []
    for name in ("own_a", "own_b"):
        trainer = in_toy.trainer("nnUNetTrainerMIReg", settings, plans_name=name)
        trainer.run_training()
        runs.append(trainer)
    assert_same(*runs)
    assert runs[0].teacher is None


@pytest.fixture
def unfinished(in_toy):
    """A run of MIReg with a checkpoint after epoch 1 of 4."""
    trainer = in_toy.trainer("nnUNetTrainerMIReg", LENGTH, plans_name="unfinished")
    checkpoint = f"{trainer.output_folder}/checkpoint_latest.pth"
    if not Path(checkpoint).exists():
        trainer.initialize()
        trainer.on_train_start()
        trainer.current_epoch = 0
        trainer.save_checkpoint(checkpoint)
    return in_toy, checkpoint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mi": {"weight": 0.2}}, r"mi.weight = 0.1, the plans now say 0.2"),
        ({"training": {"seed": 6}}, r"training.seed = 5, the plans now say 6"),
        ({"training": {"num_epochs": 3}}, r"training.num_epochs = 4, the plans now say 3"),
    ],
)
def test_continuing_with_other_settings_is_refused_by_key(unfinished, change, message):
    workspace, checkpoint = unfinished
    trainer = workspace.trainer("nnUNetTrainerMIReg", merged(LENGTH, change), plans_name="unfinished", resume=True)
    with pytest.raises(SemiSupervisedError, match=message):
        trainer.load_checkpoint(checkpoint)


def test_a_longer_training_may_go_on(unfinished):
    workspace, checkpoint = unfinished
    longer = merged(LENGTH, {"training": {"num_epochs": 6}})
    trainer = workspace.trainer("nnUNetTrainerMIReg", longer, plans_name="unfinished", resume=True)
    trainer.load_checkpoint(checkpoint)
    assert trainer.num_epochs == 6
    assert trainer.lr_scheduler.max_steps == 6


@pytest.mark.fast
def test_a_setting_that_a_later_version_adds_is_no_change():
    section = {"requested": {"mi": {"weight": 0.1}}, "cases": {}}
    given = {"mi": {"weight": 0.1, "new": True}, "newer": {"key": 1}}
    refuse_changes(section, given, {"labeled": [], "val": []}, finished=False)


def test_continuing_with_other_cases_is_refused(unfinished):
    workspace, checkpoint = unfinished
    trainer = workspace.trainer("nnUNetTrainerMIReg", LENGTH, plans_name="unfinished", resume=True)
    trainer.cases = replace(trainer.cases, unlabeled=trainer.cases.unlabeled[:-1])
    with pytest.raises(SemiSupervisedError, match=r"other unlabeled cases \(3, now 2; first difference: unlabeled_002"):
        trainer.load_checkpoint(checkpoint)


@pytest.mark.parametrize("damage", ["truncated", "stock"])
def test_a_checkpoint_that_is_truncated_or_not_ours_is_refused(unfinished, tmp_path, damage):
    workspace, checkpoint = unfinished
    file = tmp_path / "checkpoint_latest.pth"
    if damage == "truncated":
        content = Path(checkpoint).read_bytes()
        file.write_bytes(content[: len(content) // 2])
    else:
        content = torch.load(checkpoint, weights_only=False)
        del content["semisup"]
        torch.save(content, file)
    trainer = workspace.trainer("nnUNetTrainerMIReg", LENGTH, plans_name="unfinished", resume=True)
    with pytest.raises(SemiSupervisedError) as error:
        trainer.load_checkpoint(str(file))
    assert "\n" not in str(error.value)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond so many bytes, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_half_checkpoint_stays_when_the_disk_is_full(in_toy):
    trainer = in_toy.trainer("nnUNetTrainerLabeledOnly", LENGTH, plans_name="full_disk")
    trainer.initialize()
    file = f"{trainer.output_folder}/checkpoint_latest.pth"
    trainer.save_checkpoint(file)
    before = Path(file).read_bytes()
    message = r"^cannot write .*checkpoint_latest.pth \(File too large\); make room or mend the permissions, then run "
    with files_of_at_most(len(before) // 2), pytest.raises(SemiSupervisedError, match=message):
        trainer.save_checkpoint(file)
    assert Path(file).read_bytes() == before
    assert not list(Path(trainer.output_folder).glob("*.tmp"))


def test_a_log_that_cannot_be_written_ends_the_training_in_one_line(in_toy):
    trainer = in_toy.trainer("nnUNetTrainerMIReg", LENGTH, plans_name="full_log")
    trainer.on_train_start()
    trainer.on_epoch_start()
    with files_of_at_most(10), pytest.raises(SemiSupervisedError, match=r"^cannot write .*File too large.*--c$"):
        trainer.on_epoch_end()


def test_processes_go_on_with_draws_of_their_own(in_toy):
    trainer = in_toy.trainer("nnUNetTrainerMIReg", LENGTH, plans_name="ranks")
    trainer.initialize()
    section = trainer.section()

    def draws(rank: int) -> list[float]:
        trainer.local_rank = rank
        restore_random_states(trainer, section)
        with trainer.streams.active():
            unlabeled = torch.rand(()).item()
        return [unlabeled, torch.rand((), generator=trainer.generator).item(), torch.rand(()).item()]

    assert draws(0) == draws(0)
    assert draws(1) == draws(1)
    assert len({value for rank in range(3) for value in draws(rank)}) == 9

"""After a kill, --c goes on from the training that was killed and not from one before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nnunetv2.run.run_training import maybe_load_checkpoint

from nnunetv2_semisup.configuration.sources import merged
from nnunetv2_semisup.training.earlier_run import VALIDATION_RECORD
from tests.training.test_resume import Killed
from tests.workspace import TINY, Workspace

NAME = "nnUNetTrainerLabeledOnly"


def continued(workspace: Workspace, settings: dict[str, Any], plans_name: str) -> Any:
    trainer = workspace.trainer(NAME, settings, plans_name=plans_name, resume=True)
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    return trainer


def killed_at_the_start(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def die() -> None:
        raise Killed

    monkeypatch.setattr(trainer, "on_epoch_start", die)
    with pytest.raises(Killed):
        trainer.run_training()


def test_a_training_that_begins_anew_sets_an_earlier_one_aside(in_toy, monkeypatch):
    earlier = in_toy.trainer(NAME, TINY, plans_name="anew")
    earlier.run_training()
    folder = Path(earlier.output_folder)
    before = {name: (folder / name).read_bytes() for name in ("checkpoint_final.pth", "checkpoint_best.pth")}
    (folder / "pseudo_labels" / "epoch_1").mkdir(parents=True)
    (folder / "validation").mkdir()
    (folder / VALIDATION_RECORD).write_text("{}")

    again = in_toy.trainer(NAME, TINY, plans_name="anew")
    killed_at_the_start(again, monkeypatch)
    assert continued(in_toy, TINY, "anew").current_epoch == 0
    assert {name: (folder / f"earlier_{name}").read_bytes() for name in before} == before
    assert not (folder / "pseudo_labels").exists()
    assert not (folder / VALIDATION_RECORD).exists()
    log = Path(again.log_file).read_text()
    assert "begins anew: checkpoint_final.pth, checkpoint_best.pth renamed to earlier_*" in log


def test_a_longer_training_that_is_killed_does_not_go_back_to_the_old_end(in_toy, monkeypatch):
    in_toy.trainer(NAME, TINY, plans_name="longer").run_training()
    longer = merged(TINY, {"training": {"num_epochs": 5}})
    killed_at_the_start(continued(in_toy, longer, "longer"), monkeypatch)

    again = continued(in_toy, longer, "longer")
    assert again.current_epoch == 3
    again.save_checkpoint(f"{again.output_folder}/checkpoint_latest.pth")
    assert continued(in_toy, longer, "longer").current_epoch == 4

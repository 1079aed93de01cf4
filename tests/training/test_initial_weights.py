"""Whose weights a training began with stands in its checkpoint, whoever hands them over."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint

from nnunetv2_semisup.configuration.sources import merged
from nnunetv2_semisup.training.checkpoint_reading import read_checkpoint
from tests.workspace import Workspace

SHORT = {"training": {"num_epochs": 1, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1, "seed": 0}}
LONGER = merged(SHORT, {"training": {"num_epochs": 2}})
FINE_TUNED = "nnUNetTrainerEntropyMin"


def checkpoint_of(trainer: Any) -> Path:
    return Path(trainer.output_folder) / "checkpoint_final.pth"


def stored(trainer: Any) -> Any:
    return read_checkpoint(checkpoint_of(trainer))["semisup"]["initial_weights"]


@pytest.fixture(scope="module")
def first(toy: Workspace) -> Any:
    """A training with fresh weights."""
    with toy.active():
        trainer = toy.trainer("nnUNetTrainerLabeledOnly", SHORT, plans_name="first")
        trainer.run_training()
    return trainer


def fine_tune(workspace: Workspace, monkeypatch: Any, weights: Path, name: str, named: Path | None) -> Any:
    """As nnUNetv2_train does it with `-pretrained_weights weights`; `named` is what the command line says."""
    options = [] if named is None else ["-pretrained_weights", str(named)]
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_train", "901", "3d_fullres", "0", "-p", name, *options])
    trainer = workspace.trainer(FINE_TUNED, SHORT, plans_name=name)
    maybe_load_checkpoint(trainer, False, False, str(weights))
    trainer.run_training()
    return trainer


def test_fresh_weights_leave_no_mark(first):
    assert stored(first) is None


def test_the_mark_names_file_and_cases_and_stays_when_the_training_goes_on(in_toy, first, monkeypatch):
    weights = checkpoint_of(first)
    tuned = fine_tune(in_toy, monkeypatch, weights, "tuned", weights)
    mark = stored(tuned)
    assert mark["file"] == str(weights)
    assert mark["origin"] == {
        "trainer": "nnUNetTrainerLabeledOnly",
        "dataset": "Dataset901_Toy",
        "cases": first.case_lists(),
        "initial_weights": None,
    }
    assert str(weights) in Path(tuned.log_file).read_text()

    monkeypatch.setattr(sys, "argv", ["nnUNetv2_train", "--c"])
    resumed = in_toy.trainer(FINE_TUNED, LONGER, plans_name="tuned", resume=True)
    maybe_load_checkpoint(resumed, True, False, None)
    resumed.run_training()
    assert read_checkpoint(checkpoint_of(resumed))["current_epoch"] == 2
    assert stored(resumed) == mark

    again = fine_tune(in_toy, monkeypatch, checkpoint_of(resumed), "tuned_again", checkpoint_of(resumed))
    assert stored(again)["weights"] != mark["weights"]
    assert stored(again)["origin"]["initial_weights"] == mark


def test_a_file_that_was_not_named_or_holds_other_weights_is_not_believed(in_toy, first, tmp_path, monkeypatch):
    weights = checkpoint_of(first)
    other = tmp_path / "other.pth"
    content = torch.load(weights, weights_only=False)
    next(iter(content["network_weights"].values())).add_(1)
    torch.save(content, other)
    marks = [
        stored(fine_tune(in_toy, monkeypatch, weights, f"unnamed_{number}", named))
        for number, named in enumerate([weights, None, other, tmp_path / "missing.pth"])
    ]
    assert len({mark["weights"] for mark in marks}) == 1
    assert [mark["file"] for mark in marks] == [str(weights), None, None, None]
    assert [mark["origin"] for mark in marks[1:]] == [None, None, None]


def test_stock_weights_are_named_but_their_cases_are_unknown(in_toy, first, tmp_path, monkeypatch):
    stock = tmp_path / "stock.pth"
    content = torch.load(checkpoint_of(first), weights_only=False)
    del content["semisup"]
    torch.save(content, stock)
    mark = stored(fine_tune(in_toy, monkeypatch, stock, "from_stock", stock))
    assert (mark["file"], mark["origin"]) == (str(stock), None)

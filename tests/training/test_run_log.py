"""Means over an epoch, and what of them reaches the logs."""

import math
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nnunetv2_semisup.training.run_log import EpochMeans, RunLog, read_log
from tests.workspace import TINY


def test_alarms_of_an_epoch_stand_in_the_log(in_toy):
    trainer = in_toy.trainer("nnUNetTrainerMIReg", TINY, plans_name="alarms")
    trainer.initialize()
    (regularizer,) = trainer.heads
    regularizer.alarms = lambda signs: [f"the foreground is {signs['foreground']:.1f}"]
    trainer.run_training()
    log = Path(trainer.log_file).read_text()
    # The first epoch is the warm-up, without unlabelled steps and signs.
    assert log.count("WARNING: the foreground is ") == 2


def test_tensorboard_has_the_columns_where_it_is_installed(in_toy):
    trainer = in_toy.trainer("nnUNetTrainerMIReg", TINY, plans_name="tensorboard")
    trainer.run_training()
    events = EventAccumulator(f"{trainer.output_folder}/tensorboard")
    events.Reload()
    assert {"weighted/mi_bottleneck", "sign/foreground"} <= set(events.Tags()["scalars"])


@pytest.mark.fast
def test_tensorboard_forgets_the_epochs_that_a_kill_has_lost(tmp_path):
    for first in (0, 1):
        log = RunLog(tmp_path, ["sign/foreground"])
        log.cut_back(first)
        for epoch in range(first, 3 - first):
            log.append(epoch, {"sign/foreground": 0.25 + first})
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("sign/foreground")] == [(0, 0.25), (1, 1.25)]


@pytest.mark.fast
def test_without_tensorboard_there_is_the_file_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = RunLog(tmp_path, ["sign/foreground"])
    log.cut_back(0)
    log.append(0, {"sign/foreground": 0.25})
    log.close()
    assert [file.name for file in tmp_path.iterdir()] == ["semisup_log.csv"]
    assert read_log(log.file) == [{"epoch": "0", "sign/foreground": "0.25"}]


@pytest.mark.fast
def test_what_is_unknown_in_a_step_does_not_count():
    means = EpochMeans()
    for value in (1.0, math.nan, 3.0):
        means.add("term", torch.tensor(value))
        means.add_known("sign", torch.tensor(value))
        means.add_known("never", torch.tensor(math.nan))
    found = means.take()
    assert math.isnan(found["term"])
    assert found["sign"] == 2
    assert math.isnan(found["never"])
    assert means.take() == {}

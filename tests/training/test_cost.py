"""What a training says that it cost."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from nnunetv2_semisup.training.cost import COST_FILE, Cost

LENGTH = {"training": {"num_epochs": 2, "num_iterations_per_epoch": 3, "num_val_iterations_per_epoch": 1, "seed": 5}}
# A step has a labelled batch of 2, twice with a second network; from the second epoch on an unlabelled batch of 2
# through the student and the teacher, or through both networks, or an unlabelled batch of 1 in two views.
EXPECTED = {
    "nnUNetTrainerLabeledOnly": ({}, 12, 12),
    "nnUNetTrainerMIReg": ({}, 12 + 3 * 4, 12 + 3 * 2),
    "nnUNetTrainerCPS": ({}, 24 + 3 * 4, 24 + 3 * 4),
    "nnUNetTrainerUAMT": ({"uncertainty": {"passes": 3}}, 12 + 3 * 2 * 5, 12 + 3 * 2),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_samples_are_counted_once_for_each_pass(in_toy, name):
    settings, samples, gradient_samples = EXPECTED[name]
    trainer = in_toy.trainer(name, LENGTH | settings, plans_name=f"cost_{name}")
    trainer.run_training()
    cost = json.loads((Path(trainer.output_folder) / COST_FILE).read_text())
    assert cost == asdict(trainer.cost)
    assert (cost["samples"], cost["gradient_samples"], cost["epochs"]) == (samples, gradient_samples, 2)
    assert 0 < cost["seconds"] < 600
    assert 50 << 20 < cost["peak_memory_bytes"] < 24 << 30


@pytest.mark.fast
def test_peaks_are_kept_and_the_file_is_whole(tmp_path):
    cost = Cost(peak_memory_bytes=1 << 50)
    cost.end_epoch(2.0, torch.device("cpu"))
    cost.write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [COST_FILE]
    assert json.loads((tmp_path / COST_FILE).read_text())["peak_memory_bytes"] == 1 << 50

"""Which checkpoint a validation was made with stands beside it."""

from __future__ import annotations

import json
from pathlib import Path

LENGTH = {"training": {"num_epochs": 1, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1}}


def test_the_record_names_the_checkpoint_that_predicted(in_toy):
    trainer = in_toy.trainer("nnUNetTrainerLabeledOnly", LENGTH, plans_name="validated")
    trainer.run_training()
    record = Path(trainer.output_folder) / "validation" / "semisup_validation.json"
    trainer.perform_actual_validation()
    assert json.loads(record.read_text()) == {"checkpoint": "checkpoint_final.pth", "epoch": 1}
    # As nnUNetv2_train does with --val_best.
    trainer.load_checkpoint(f"{trainer.output_folder}/checkpoint_best.pth")
    trainer.perform_actual_validation()
    assert json.loads(record.read_text()) == {"checkpoint": "checkpoint_best.pth", "epoch": 1}

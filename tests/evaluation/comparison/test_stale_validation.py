"""Segmentations of an earlier epoch do not pass for those of the last checkpoint."""

import json

import pytest

from nnunetv2_semisup.configuration.sources import merged
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.comparison.compare import compare
from nnunetv2_semisup.evaluation.comparison.reading import VALIDATION_FILE, read_fold
from tests.evaluation.comparison.conftest import SETTINGS


def test_a_training_that_went_on_and_was_killed_before_its_validation_is_refused(lab):
    with lab.workspace.active():
        name = "nnUNetTrainerLabeledOnly"
        short = merged(SETTINGS, {"training": {"num_epochs": 1}})
        trainer = lab.workspace.trainer(name, short, plans_name="extended")
        trainer.run_training()
        trainer.perform_actual_validation()
        read_fold(lab.workspace.root.joinpath(trainer.output_folder))
        longer = lab.workspace.trainer(name, SETTINGS, plans_name="extended", resume=True)
        longer.load_checkpoint(f"{longer.output_folder}/checkpoint_final.pth")
        longer.run_training()
        with pytest.raises(SemiSupervisedError, match=r"made after 1 epochs, and checkpoint_final.pth has 2; .* --val"):
            read_fold(lab.workspace.root.joinpath(trainer.output_folder))


def test_a_validation_that_was_stopped_is_refused(lab, monkeypatch):
    run = lab.run("EntropyMin")
    (run / "validation" / VALIDATION_FILE).unlink()
    with pytest.raises(SemiSupervisedError, match=f"holds no {VALIDATION_FILE}, as where a validation was stopped"):
        compare([lab.run(), run], [])


def test_a_record_without_an_epoch_is_warned_about(lab):
    old = lab.run("EntropyMin", errors=0.2)
    record = old / "validation" / VALIDATION_FILE
    record.write_text(json.dumps({"checkpoint": "checkpoint_final.pth"}))
    comparison = compare([lab.run(errors=0.3), old], [])
    assert comparison.refused == []
    (line,) = [line for line in comparison.warnings if "after how many epochs" in line]
    assert line.startswith(f"{old.parent.name}/fold_0: ")

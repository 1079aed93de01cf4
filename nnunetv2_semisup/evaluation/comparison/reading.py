"""A finished fold of a training, and a folder of segmentations, as runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_semisup.data.folders import read_json
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.comparison.runs import ALL, Run, Training, flat
from nnunetv2_semisup.methods import PREFIX
from nnunetv2_semisup.training.checkpoint import SECTION
from nnunetv2_semisup.training.checkpoint_reading import read_checkpoint
from nnunetv2_semisup.training.cost import COST_FILE, Cost
from nnunetv2_semisup.training.fold_files import FINAL, VALIDATION_FILE

CURVES = {
    "train_losses": "Supervised loss on the labelled cases",
    "ema_fg_dice": "Pseudo Dice on patches of the validation cases, smoothed",
}
"""Lists of nnU-Net's log, and what they are."""
_NOT_COMPARED = ("data_identifier", "inherits_from", "median_image_size_in_voxels", "next_stage", "previous_stage")
_RENAMED = {"architecture": "network"}
_PLANS_KEYS = ("image_reader_writer", "transpose_forward", "foreground_intensity_properties_per_channel")
_SETTINGS_KEYS = ("training.initial_lr", "training.lr_warmup_epochs")
_SHOWN = 12
"""Digits of the fingerprint of weights."""
_DATASET_KEYS = ("labels", "regions_class_order")


def read_fold(folder: Path) -> Run:
    """The run of a fold's folder, nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION/fold_F.

    Raises SemiSupervisedError: no final checkpoint, a damaged one, or one of a stock trainer, which does not record
    what it saw; no validation, an unfinished one, or one of another epoch than the checkpoint's; a damaged record of
    the validation or of the cost.
    """
    name = f"{folder.parent.name}/{folder.name}"
    if not (folder / FINAL).is_file():
        raise SemiSupervisedError(f"{folder} holds no {FINAL}; finish the training: nnUNetv2_train ... --c")
    checkpoint = read_checkpoint(folder / FINAL)
    trainer = str(checkpoint["trainer_name"])
    if SECTION not in checkpoint:
        raise SemiSupervisedError(
            f"{folder / FINAL} was written by {trainer}, which records neither its cases nor its samples; train "
            "nnUNetTrainerLabeledOnly instead, which equals stock nnU-Net, or give its folder validation/"
        )
    predictions = folder / "validation"
    if not predictions.is_dir():
        raise SemiSupervisedError(f"{folder} holds no validation; make it: nnUNetv2_train ... --val")
    selected, epoch = _record_of(predictions)
    if selected is None:
        raise SemiSupervisedError(
            f"{predictions} holds no {VALIDATION_FILE}, as where a validation was stopped, so its segmentations may be "
            "those of another checkpoint; make them again: nnUNetv2_train ... --val"
        )
    if selected == FINAL and epoch not in (None, checkpoint["current_epoch"]):
        raise SemiSupervisedError(
            f"{predictions} was made after {epoch} epochs, and {FINAL} has {checkpoint['current_epoch']}; make it "
            "again: nnUNetv2_train ... --val"
        )
    training = _training(folder, checkpoint, trainer)
    seed = checkpoint[SECTION]["settings"]["training"]["seed"]
    return Run(name, trainer.removeprefix(PREFIX), predictions, seed, training, selected, epoch)


def read_segmentations(folder: Path, method: str, seed: int | None) -> Run:
    """The run of a folder of segmentations from elsewhere."""
    name = method if seed is None else f"{method}/{folder.name}"
    return Run(name, method, folder, seed, None, *_record_of(folder))


def _training(folder: Path, checkpoint: Mapping[str, Any], trainer: str) -> Training:
    section, arguments = checkpoint[SECTION], checkpoint["init_args"]
    plans, configuration = arguments["plans"], arguments["configuration"]
    settings = flat(section["settings"])
    cases = {kind: tuple(sorted(ids)) for kind, ids in section["cases"].items()}
    resolved = PlansManager(plans).get_configuration(configuration).configuration
    plan = {_RENAMED.get(key, key): value for key, value in resolved.items() if key not in _NOT_COMPARED}
    plan |= {"configuration": configuration} | {key: plans[key] for key in _PLANS_KEYS}
    plan |= {key: settings[key] for key in _SETTINGS_KEYS}
    # A checkpoint from before they were recorded does not say so.
    initial_weights = section.get("initial_weights")
    plan["initial_weights"] = None if initial_weights is None else initial_weights["weights"][:_SHOWN]
    plan |= {key: arguments["dataset_json"].get(key) for key in _DATASET_KEYS}
    epochs = int(checkpoint["current_epoch"])
    log = checkpoint["logging"]
    return Training(
        trainer=trainer,
        dataset=str(plans["dataset_name"]),
        fold=str(arguments["fold"]),
        labeled=cases["labeled"],
        unlabeled=cases["unlabeled"],
        val=cases["val"],
        labels=ALL if settings["data.split"] is None else len(cases["labeled"]),
        labeled_samples=epochs * settings["training.num_iterations_per_epoch"] * resolved["batch_size"],
        settings=settings,
        plan=plan,
        data_identifier=str(resolved["data_identifier"]),
        cost=_cost(folder),
        initial_weights=initial_weights,
        curves={name: tuple(float(value) for value in log[name]) for name in CURVES if name in log},
    )


def _cost(folder: Path) -> Cost | None:
    file = folder / COST_FILE
    if not file.is_file():
        return None
    content = read_json(file)
    names = {field.name for field in fields(Cost)}
    if not isinstance(content, dict) or content.keys() != names or not all(map(_is_number, content.values())):
        raise SemiSupervisedError(f"{file} is damaged: it is not a number for each of {', '.join(sorted(names))}; "
                                  "restore or delete it")  # fmt: skip
    return Cost(**content)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _record_of(predictions: Path) -> tuple[str | None, int | None]:
    """Name and epoch of the checkpoint that made segmentations, as far as they are recorded."""
    file = predictions / VALIDATION_FILE
    if not file.is_file():
        return None, None
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("checkpoint"), str):
        raise SemiSupervisedError(
            f"{file} is damaged: it names no checkpoint; validate again: nnUNetv2_train ... --val"
        )
    return str(content["checkpoint"]), content.get("epoch")

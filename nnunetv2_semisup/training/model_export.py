"""A trained model in the form that stock nnU-Net loads without this package."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from tqdm import tqdm

from nnunetv2_semisup import __version__
from nnunetv2_semisup.configuration import sources
from nnunetv2_semisup.data.folders import read_model_file
from nnunetv2_semisup.data.staging import put_in_place, refuse_existing, staging_folder
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.training.checkpoint import SECTION
from nnunetv2_semisup.training.checkpoint_reading import read_checkpoint
from nnunetv2_semisup.training.fold_files import FINAL

Weights = Literal["student", "teacher"]

TRAINER = "nnUNetTrainer"
RECORD = "semisup_export.json"
"""Beside plans.json: where the model comes from and which weights it holds. Stock nnU-Net does not look at it."""


@dataclass(frozen=True)
class Exported:
    """What was written, and the names under which stock nnU-Net knows it."""

    path: Path
    dataset: str
    plans: str
    configuration: str
    folds: tuple[str, ...]


def export_model(
    model_folder: Path, target: Path, folds: Sequence[str] | None, weights: Weights, as_zip: bool
) -> Exported:
    """Write the finished folds of a model as stock nnU-Net's trainer would have left them.

    The checkpoints keep stock's keys, with `weights` as the network's; the `semisup` section goes from checkpoints
    and plans (its case ids stay at home, its settings are repeated in RECORD). Predictions equal ours bit for bit.

    `folds`: names ("0", "all") or None for every finished one. `as_zip`: one file for
    nnUNetv2_install_pretrained_model_from_zip instead of a folder. The target appears whole or not at all. Raises
    SemiSupervisedError for an unfinished fold, a checkpoint that is damaged or not ours, a missing teacher and a
    target that exists.
    """
    if as_zip and target.suffix != ".zip":
        target = target.with_name(target.name + ".zip")
    refuse_existing(target)
    plans = _without_section(read_model_file(model_folder, "plans.json"))
    dataset = read_model_file(model_folder, "dataset.json")
    folds = _finished(model_folder, folds)
    # torch reports a full disk as a RuntimeError.
    with staging_folder(target, (OSError, RuntimeError)) as staging:
        configuration = _write_model(model_folder, staging, plans, dataset, folds, weights)
        exported = Exported(target, plans["dataset_name"], plans["plans_name"], configuration, tuple(folds))
        if as_zip:
            _pack(staging, Path(exported.dataset) / f"{TRAINER}__{exported.plans}__{configuration}", target)
        else:
            put_in_place(staging, target)
    return exported


def _write_model(
    model_folder: Path,
    staging: Path,
    plans: dict[str, Any],
    dataset: dict[str, Any],
    folds: Sequence[str],
    weights: Weights,
) -> str:
    """Returns the name of the configuration."""
    epochs = {}
    for fold in tqdm(folds, desc="folds", disable=None):
        file = model_folder / f"fold_{fold}" / FINAL
        checkpoint = read_checkpoint(file)
        if SECTION not in checkpoint:
            raise SemiSupervisedError(
                f"{file} was written by {checkpoint['trainer_name']} and not by a trainer of nnunetv2_semisup; "
                "stock nnU-Net shares it as it is: nnUNetv2_export_model_to_zip"
            )
        section = checkpoint.pop(SECTION)
        _make_stock(checkpoint, section["modules"], weights, file)
        epochs[fold] = checkpoint["current_epoch"]
        (staging / f"fold_{fold}").mkdir()
        torch.save(checkpoint, staging / f"fold_{fold}" / FINAL)
    _write_json(staging / "plans.json", plans)
    _write_json(staging / "dataset.json", dataset)
    fingerprint = model_folder / "dataset_fingerprint.json"
    if fingerprint.is_file():
        shutil.copyfile(fingerprint, staging / fingerprint.name)
    record = {
        "written_by": f"nnunetv2_semisup {__version__}",
        "model": model_folder.resolve().name,
        "method": section["method"],
        "weights": weights,
        "epochs": epochs,
        "settings": section["settings"],
    }
    _write_json(staging / RECORD, record)
    return str(checkpoint["init_args"]["configuration"])


def _make_stock(checkpoint: dict[str, Any], modules: dict[str, Any], weights: Weights, file: Path) -> None:
    """Turn a checkpoint of ours into one that nnU-Net's own trainer could have written, in place."""
    if weights == "teacher":
        # MixedKD's teacher is a decoder of its own, whatever else has been averaged beside it.
        teacher = modules.get("second_decoder", modules.get("teacher"))
        if teacher is None:
            raise SemiSupervisedError(f"{file} holds no teacher: its method has none; use --weights student")
        checkpoint["network_weights"] = teacher
    stock_log = LocalLogger().get_checkpoint()
    checkpoint["logging"] = {key: value for key, value in checkpoint["logging"].items() if key in stock_log}
    checkpoint["init_args"]["plans"] = _without_section(checkpoint["init_args"]["plans"])
    checkpoint["trainer_name"] = TRAINER


def _finished(model_folder: Path, folds: Sequence[str] | None) -> list[str]:
    available = sorted(file.parent.name.removeprefix("fold_") for file in model_folder.glob(f"fold_*/{FINAL}"))
    if not available:
        raise SemiSupervisedError(
            f"{model_folder} has no finished fold (fold_F/{FINAL}); finish one: nnUNetv2_train --c"
        )
    unfinished = [fold for fold in folds or () if fold not in available]
    if unfinished:
        raise SemiSupervisedError(
            f"fold {unfinished[0]} of {model_folder} is not finished; finished are: {', '.join(available)}"
        )
    return list(dict.fromkeys(folds)) if folds else available


def _pack(folder: Path, inside: Path, target: Path) -> None:
    """Zip `folder` as `inside`; weights do not compress, so they are stored."""
    unfinished = folder / "model.zip"
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    with zipfile.ZipFile(unfinished, "w") as archive:
        for file in tqdm(files, desc="zip", disable=None):
            archive.write(file, inside / file.relative_to(folder))
    os.replace(unfinished, target)


def _without_section(plans: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plans.items() if key != sources.SECTION}


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=4), encoding="utf-8")

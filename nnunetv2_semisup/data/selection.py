"""Which cases take part in a training, and every reason not to begin it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_semisup.data.case_preprocessing import case_files
from nnunetv2_semisup.data.folders import dataset_option, preprocessed_identifiers, resolve_configuration
from nnunetv2_semisup.data.manifest import Manifest, preprocessing_hash, read_manifest, unlabeled_folder
from nnunetv2_semisup.data.splits import Split, read_split, split_file
from nnunetv2_semisup.errors import SemiSupervisedError


@dataclass(frozen=True)
class RunCases:
    """The identifiers of a training, sorted. None: nnU-Net's own split."""

    labeled: tuple[str, ...] | None
    val: tuple[str, ...] | None
    unlabeled: tuple[str, ...]


def select_cases(
    dataset_folder: Path,
    plans: dict[str, Any],
    configuration: str,
    fold: int | str,
    split: str | None,
    need_unlabeled: bool,
) -> RunCases:
    """The cases of a run: every unlabelled case that is preprocessed, plus the named split's unlabelled training cases.

    Args:
        dataset_folder: of nnUNet_preprocessed.
        plans: of the run.
        configuration: of the run.
        fold: a number, or "all".
        split: name of a split file, or None for nnU-Net's own split.
        need_unlabeled: whether the method uses unlabelled cases. If not, none is looked for.

    Raises:
        SemiSupervisedError: nothing preprocessed; a split file that is missing, lacks the fold, names an unknown case
            or one on two sides; and, if unlabelled cases are needed: none of them, unfinished ones, data of other
            plans, missing copies of training cases, a labelled or validation case among them.
    """
    data_identifier = resolve_configuration(plans, configuration).data_identifier
    stock_folder = dataset_folder / data_identifier
    labeled_cases = preprocessed_identifiers(stock_folder)
    dataset = dataset_option(dataset_folder.name)
    plans_option = "" if plans["plans_name"] == "nnUNetPlans" else f" -p {plans['plans_name']}"
    if not labeled_cases:
        raise SemiSupervisedError(
            f"{stock_folder} holds no labelled case; type: nnUNetv2_preprocess -d {dataset} -c {configuration}"
        )
    chosen = None
    if split is not None:
        chosen = read_split(dataset_folder, split, fold)
        _refuse_unknown(chosen, labeled_cases, f"fold {fold} of {split_file(dataset_folder, split)}")
    labeled, val = (chosen.labeled, chosen.val) if chosen else (None, None)
    if not need_unlabeled:
        return RunCases(labeled, val, ())

    command = f"nnUNetv2_semisup preprocess -d {dataset} -c {configuration}{plans_option}"
    manifest = read_manifest(dataset_folder, data_identifier)
    folder = unlabeled_folder(dataset_folder, data_identifier)
    _refuse_unfinished(manifest, command)
    unlabeled = manifest.done("unlabelled")
    if chosen:
        copies = set(manifest.done("training"))
        if missing := sorted(set(chosen.unlabeled) - copies):
            raise SemiSupervisedError(
                f"the split {split} names {missing[0]} unlabelled ({len(missing)} such cases), of which there is no "
                f"image-only copy; type: {command} --training"
            )
        unlabeled += chosen.unlabeled
    if not unlabeled:
        raise SemiSupervisedError(
            f"there is no unlabelled case for {data_identifier}; put images into imagesUn of the raw dataset and type: "
            f"{command}"
        )
    _refuse_unusable(unlabeled, manifest, preprocessing_hash(plans, configuration), folder, command)
    _refuse_leak(unlabeled, manifest, labeled_cases, chosen, command)
    return RunCases(labeled, val, tuple(sorted(unlabeled)))


def _refuse_unknown(split: Split, labeled_cases: set[str], where: str) -> None:
    unknown = sorted({*split.labeled, *split.unlabeled, *split.val} - labeled_cases)
    if unknown:
        raise SemiSupervisedError(f"{where} names {unknown[0]}, which is no case of the dataset; mend the file")


def _refuse_unfinished(manifest: Manifest, command: str) -> None:
    if manifest.missing_parts:
        index, total = manifest.missing_parts[0]
        raise SemiSupervisedError(
            f"part {index} of {total} of the unlabelled cases is not preprocessed; "
            f"type: {command} --part {index}/{total}"
        )
    pending = sorted(key for key, case in manifest.cases.items() if case.status == "pending")
    if pending:
        raise SemiSupervisedError(
            f"preprocessing was interrupted, {len(pending)} unlabelled cases are missing, {pending[0]} first; type the "
            f"preprocessing command again, it goes on: {command}"
        )


def _refuse_unusable(unlabeled: list[str], manifest: Manifest, target: str, folder: Path, command: str) -> None:
    present = set(os.listdir(folder)) if folder.is_dir() else set()
    for identifier in unlabeled:
        if manifest.cases[identifier].preprocessing_hash != target:
            raise SemiSupervisedError(
                f"the unlabelled cases in {folder} were preprocessed for other plans; type: {command} --overwrite"
            )
        if not present.issuperset(case_files(identifier)):
            raise SemiSupervisedError(f"{identifier} is not in {folder} any more; type: {command}")


def _refuse_leak(
    unlabeled: list[str], manifest: Manifest, labeled_cases: set[str], split: Split | None, command: str
) -> None:
    """By name, and by voxels where there are image-only copies of the training cases to compare with."""
    from_split = set(split.unlabeled) if split else set()
    if labeled := sorted(set(unlabeled) & labeled_cases - from_split):
        raise SemiSupervisedError(
            f"{labeled[0]} is a labelled case and cannot be an unlabelled one as well; to remove it from the "
            f"unlabelled cases type: {command}"
        )
    names = {case.voxel_hash: key for key, case in manifest.cases.items()
             if case.origin == "training" and case.status == "done" and key not in from_split}  # fmt: skip
    for identifier in sorted(unlabeled):
        voxels = manifest.cases[identifier].voxel_hash
        other = names.setdefault(voxels, identifier)
        if other != identifier:
            raise SemiSupervisedError(
                f"the unlabelled case {identifier} has the voxels of {other}; remove one of them and type: {command}"
            )

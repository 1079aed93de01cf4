"""Which cases take part in a training, and every reason not to begin it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_semisup.data.case_preprocessing import CONSTANT, case_files
from nnunetv2_semisup.data.folders import dataset_option, preprocessed_identifiers, resolve_configuration
from nnunetv2_semisup.data.manifest import Manifest, preprocessing_hash, read_manifest, unlabeled_folder
from nnunetv2_semisup.data.splits import Split, read_split, split_file, stock_fold
from nnunetv2_semisup.errors import SemiSupervisedError


@dataclass(frozen=True)
class RunCases:
    """The identifiers of a training, sorted. None: nnU-Net's own split.

    `dense` and `sparse` are the labelled cases that the named split calls so.
    """

    labeled: tuple[str, ...] | None
    val: tuple[str, ...] | None
    unlabeled: tuple[str, ...]
    dense: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()


def select_cases(
    dataset_folder: Path,
    plans: dict[str, Any],
    configuration: str,
    fold: int | str,
    split: str | None,
    need_unlabeled: bool,
    none_is_fine: bool = False,
) -> RunCases:
    """The cases of a run: every unlabelled case that is preprocessed, plus the named split's unlabelled training cases.

    Args:
        dataset_folder: of nnUNet_preprocessed.
        plans: of the run.
        configuration: of the run.
        fold: a number, or "all".
        split: name of a split file, or None for nnU-Net's own split.
        need_unlabeled: whether the method uses unlabelled cases. If not, none is looked for.
        none_is_fine: whether it can do without where there is none.

    Raises:
        SemiSupervisedError: nothing preprocessed; a split file that is missing, lacks the fold, names an unknown case
            or one on two sides; and, if unlabelled cases are needed: none of them, unfinished ones, data of other
            plans, missing copies of training cases, a labelled or validation case among them.
    """
    data_identifier = resolve_configuration(plans, configuration).data_identifier
    labeled_cases = preprocessed_cases(dataset_folder, data_identifier, configuration, plans["plans_name"])
    chosen = None if split is None else _read_known_split(dataset_folder, split, fold, labeled_cases)
    cases = (
        RunCases(chosen.labeled, chosen.val, (), chosen.dense, chosen.sparse) if chosen else RunCases(None, None, ())
    )
    if not need_unlabeled:
        return cases

    manifest = read_manifest(dataset_folder, data_identifier)
    command = _command(dataset_folder, plans, configuration, manifest)
    _refuse_unfinished(manifest, command)
    unlabeled = manifest.done("unlabelled")
    if chosen:
        if missing := sorted(set(chosen.unlabeled) - set(manifest.done("training"))):
            raise SemiSupervisedError(
                f"the split {split} names {missing[0]} unlabelled ({len(missing)} such cases), of which there is no "
                f"image-only copy; type: {_command(dataset_folder, plans, configuration, manifest, training=True)}"
            )
        unlabeled += chosen.unlabeled
    if not unlabeled and none_is_fine:
        return cases
    if not unlabeled:
        raise SemiSupervisedError(
            f"there is no unlabelled case for {data_identifier}; put images into imagesUn of the raw dataset and type: "
            f"{command}"
        )
    folder = unlabeled_folder(dataset_folder, data_identifier)
    _refuse_unusable(unlabeled, manifest, preprocessing_hash(plans, configuration), folder, command)
    copies = set(chosen.unlabeled if chosen else ())
    _refuse_leak(unlabeled, manifest, labeled_cases, copies, _splits(dataset_folder, split), folder, command)
    _refuse_twins(unlabeled, manifest, copies, folder, command)
    return replace(cases, unlabeled=tuple(sorted(unlabeled)))


def select_images(
    dataset_folder: Path,
    plans: dict[str, Any],
    configuration: str,
    fold: int | str,
    split: str | None,
    exclude_val: bool,
) -> RunCases:
    """The cases of a run without labels: every unlabelled case, and every image-only copy of a training case.

    Args:
        dataset_folder: of nnUNet_preprocessed.
        plans: of the run.
        configuration: of the run.
        fold: a number, or "all", which leaves nothing out.
        split: name of a split file, or None for nnU-Net's own split.
        exclude_val: leave out the copies of the fold's validation cases.

    Raises:
        SemiSupervisedError: as `select_cases`; no such fold; no image at all.
    """
    data_identifier = resolve_configuration(plans, configuration).data_identifier
    labeled_cases = preprocessed_cases(dataset_folder, data_identifier, configuration, plans["plans_name"])
    val: tuple[str, ...] = ()
    if split is not None:
        val = _read_known_split(dataset_folder, split, fold, labeled_cases).val
    elif fold != "all":
        val = tuple(stock_fold(dataset_folder, sorted(labeled_cases), fold)[1])
    manifest = read_manifest(dataset_folder, data_identifier)
    command = _command(dataset_folder, plans, configuration, manifest, training=True)
    _refuse_unfinished(manifest, command)
    left_out = set(val) if exclude_val and fold != "all" else set()
    copies = set(manifest.done("training")) - left_out
    images = [*manifest.done("unlabelled"), *copies]
    if not images:
        raise SemiSupervisedError(f"there is no image to learn from for {data_identifier}; type: {command}")
    folder = unlabeled_folder(dataset_folder, data_identifier)
    _refuse_unusable(images, manifest, preprocessing_hash(plans, configuration), folder, command)
    _refuse_leak(images, manifest, labeled_cases, copies, _splits(dataset_folder, split), folder, command)
    return RunCases((), tuple(sorted(left_out)), tuple(sorted(images)))


def ready_configurations(dataset_folder: Path, plans: dict[str, Any]) -> list[str]:
    """The plans' configurations of which stock nnU-Net has preprocessed cases.

    Raises SemiSupervisedError where there is none.
    """
    names = list(PlansManager(plans).available_configurations)
    ready = [
        name
        for name in names
        if preprocessed_identifiers(dataset_folder / resolve_configuration(plans, name).data_identifier)
    ]
    if not ready:
        raise SemiSupervisedError(
            f"{dataset_folder} holds no preprocessed case for {plans['plans_name']}; type: nnUNetv2_preprocess "
            f"-d {dataset_option(dataset_folder.name)} -plans_name {plans['plans_name']} -c {' '.join(names)}"
        )
    return ready


def count_cases(dataset_folder: Path, plans: dict[str, Any], configuration: str) -> tuple[int, int, int]:
    """How many labelled cases, unlabelled ones and image-only copies of labelled ones are ready for a training.

    Raises SemiSupervisedError: as `select_images`, for a run with all images and fold "all".
    """
    data_identifier = resolve_configuration(plans, configuration).data_identifier
    labeled = preprocessed_cases(dataset_folder, data_identifier, configuration, plans["plans_name"])
    images = select_images(dataset_folder, plans, configuration, "all", None, exclude_val=False).unlabeled
    copies = labeled & set(images)
    return len(labeled), len(images) - len(copies), len(copies)


def preprocessed_cases(dataset_folder: Path, data_identifier: str, configuration: str, plans_name: str) -> set[str]:
    """The labelled cases that stock nnU-Net has preprocessed; raises SemiSupervisedError where there is none."""
    cases = preprocessed_identifiers(dataset_folder / data_identifier)
    if not cases:
        plans_option = "" if plans_name == "nnUNetPlans" else f" -plans_name {plans_name}"
        raise SemiSupervisedError(
            f"{dataset_folder / data_identifier} holds no labelled case; type: nnUNetv2_preprocess "
            f"-d {dataset_option(dataset_folder.name)}{plans_option} -c {configuration}"
        )
    return cases


def _read_known_split(dataset_folder: Path, name: str, fold: int | str, labeled_cases: set[str]) -> Split:
    split = read_split(dataset_folder, name, fold)
    _refuse_unknown(split, labeled_cases, f"fold {fold} of {split_file(dataset_folder, name)}")
    return split


def _splits(dataset_folder: Path, split: str | None) -> Path:
    """Where it says which training cases validate."""
    return dataset_folder / "splits_final.json" if split is None else split_file(dataset_folder, split)


def _command(
    dataset_folder: Path, plans: dict[str, Any], configuration: str, manifest: Manifest, training: bool = False
) -> str:
    """What to type to preprocess all that the manifest knows, from where it was found; with copies if `training`."""
    command = ["nnUNetv2_semisup", "preprocess", "-d", dataset_option(dataset_folder.name), "-c", configuration]
    if plans["plans_name"] != "nnUNetPlans":
        command += ["-p", plans["plans_name"]]
    folders = sorted({Path(case.source[0]).parent for case in manifest.cases.values() if case.origin == "unlabelled"})
    if any(folder.parts[-2:] != (dataset_folder.name, "imagesUn") for folder in folders):
        command += ["-i", *map(str, folders)]
    if training or any(case.origin == "training" for case in manifest.cases.values()):
        command.append("--training")
    return shlex.join(command)


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
    unlabeled: list[str],
    manifest: Manifest,
    labeled_cases: set[str],
    copies: set[str],
    splits: Path,
    folder: Path,
    command: str,
) -> None:
    """By name, `copies` of training cases apart, and by voxels where there are other copies to compare with."""
    if labeled := sorted(set(unlabeled) & labeled_cases - copies):
        raise SemiSupervisedError(
            f"{labeled[0]} is a labelled case and cannot be an unlabelled one as well; to remove it from the "
            f"unlabelled cases type: {command}"
        )
    others = {voxels: key for key, voxels in _voxels(set(manifest.done("training")) - copies, manifest)}
    for identifier, voxels in _voxels(unlabeled, manifest):
        if voxels in others and identifier in copies:
            raise SemiSupervisedError(
                f"the training cases {identifier} and {others[voxels]} have the same voxels and must be on one side; "
                f"move one of the two in {splits}"
            )
        if voxels in others:
            raise _same_voxels(identifier, others[voxels], folder, command)


def _refuse_twins(unlabeled: list[str], manifest: Manifest, copies: set[str], folder: Path, command: str) -> None:
    """An unlabelled case that equals another, or one of the `copies` of training cases, would count twice."""
    seen = {voxels: key for key, voxels in _voxels(copies, manifest)}
    for identifier, voxels in _voxels(set(unlabeled) - copies, manifest):
        other = seen.setdefault(voxels, identifier)
        if other != identifier:
            raise _same_voxels(identifier, other, folder, command)


def _voxels(identifiers: Iterable[str], manifest: Manifest) -> list[tuple[str, str]]:
    """Identifiers, sorted, and the hash of their voxels. Constant images hold nothing that could leak."""
    return [
        (identifier, manifest.cases[identifier].voxel_hash)
        for identifier in sorted(identifiers)
        if CONSTANT not in manifest.cases[identifier].note
    ]


def _same_voxels(identifier: str, other: str, folder: Path, command: str) -> SemiSupervisedError:
    return SemiSupervisedError(
        f"the unlabelled case {identifier} has the voxels of {other}; delete its image and {folder}/{identifier}.b2nd, "
        f"and type: {command}"
    )

"""Unlabelled images through nnU-Net's own preprocessing, in as many processes as asked, resumable at any moment."""

from __future__ import annotations

import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from tqdm import tqdm

from nnunetv2_semisup.data.case_preprocessing import CasePreprocessor, case_files, has_same_images, is_same, remove_case
from nnunetv2_semisup.data.folders import resolve_configuration, written_regularly
from nnunetv2_semisup.data.inventory import Inventory
from nnunetv2_semisup.data.leakage import known_voxels
from nnunetv2_semisup.data.lock import held
from nnunetv2_semisup.data.manifest import (
    Case,
    Part,
    manifest_file,
    part_files,
    preprocessing_hash,
    read_cases,
    read_manifest,
    unlabeled_folder,
    write_cases,
)
from nnunetv2_semisup.data.workers import Workers
from nnunetv2_semisup.errors import SemiSupervisedError

_LITTLE_SPACE = 1 << 26
"""Bytes. Where a case could not be saved and less is free, the disk is full, and no other case will fare better."""


@dataclass
class Outcome:
    """What a call did for one configuration."""

    folder: Path
    """Where the preprocessed cases lie."""
    made: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Finished before."""
    refused: list[str] = field(default_factory=list)
    """A line for each: the file, and why."""


@dataclass(frozen=True)
class _Place:
    """The files of one configuration, and of one part of its cases."""

    dataset_folder: Path
    data_identifier: str
    part: Part | None

    @property
    def folder(self) -> Path:
        return unlabeled_folder(self.dataset_folder, self.data_identifier)

    @property
    def manifest(self) -> Path:
        return manifest_file(self.dataset_folder, self.data_identifier, self.part)

    @property
    def unfinished(self) -> Path:
        """What the folder of a call's unfinished files is called, apart from an ending of its own."""
        return self.folder / ("unfinished" if self.part is None else "unfinished_part_{}_of_{}".format(*self.part))


def preprocess_unlabeled(
    dataset_folder: Path,
    dataset_json: dict[str, Any],
    plans: dict[str, Any],
    configuration: str,
    inventory: Inventory,
    *,
    num_processes: int,
    part: Part | None = None,
    overwrite: bool = False,
) -> Outcome:
    """Preprocess the cases of an inventory for one configuration into its folder of unlabelled cases.

    A case is complete or absent at any moment. A finished case is skipped; after a kill, the same call goes on. A case
    that cannot be used is refused with a line on standard error, and the others are made. Another call for the same
    cases is waited for.

    Args:
        dataset_folder: of nnUNet_preprocessed.
        dataset_json: content of the dataset's dataset.json.
        plans: whose preprocessing is used.
        configuration: one of the plans' own.
        inventory: of `take_inventory`.
        num_processes: at least 1.
        part: (I, N) to take the I-th of N parts of the cases only, told apart by a hash of their names; it keeps a
            manifest of its own.
        overwrite: make finished cases again, and replace what was preprocessed for other plans or from other images.

    Raises:
        SemiSupervisedError: unknown configuration; data of other plans without `overwrite`; no space left.
    """
    place = _Place(dataset_folder, resolve_configuration(plans, configuration).data_identifier, part)
    target = preprocessing_hash(plans, configuration)
    outcome = Outcome(place.folder)
    lock = held(place.manifest.with_suffix(".lock"), _waiting(place.folder))
    with lock, _own_folder(place.unfinished) as unfinished, Workers(num_processes) as workers:
        before = read_manifest(dataset_folder, place.data_identifier).cases
        if not overwrite:
            _refuse_other_plans(before, target, place.folder, plans["plans_name"])
        known: dict[str, str] = {}
        if any(case.origin == "unlabelled" for case in (inventory.cases | before).values()):
            cache = dataset_folder / "labeled_voxel_hashes.json"
            known = known_voxels(inventory.protected, plans["image_reader_writer"], cache, workers)
        if part is None:
            _settle(before, inventory, known, target, place.folder)
            records = before
        else:
            records = read_cases(place.manifest) if place.manifest.exists() else {}
        wanted = {
            identifier: replace(case, preprocessing_hash=target)
            for identifier, case in inventory.cases.items()
            if part is None or _is_of_part(identifier, part)
        }
        todo = _skip_finished(wanted, before, records, place.folder, overwrite, outcome)
        records.update(todo)
        write_cases(records, place.manifest)
        if part is None:
            for file in part_files(dataset_folder, place.data_identifier).values():
                file.unlink()
        job = CasePreprocessor(plans, configuration, dataset_json, place.folder, unfinished, known, reuse=not overwrite)
        by_voxels = {case.voxel_hash: identifier for identifier, case in before.items() if _takes_part(case)}
        with written_regularly(lambda: write_cases(records, place.manifest)) as changed:
            results = workers.run(job, todo.items())
            for (identifier, case), result in tqdm(results, f"Preprocessing {configuration}", len(todo), disable=None):
                records[identifier] = result or replace(
                    case, status="refused", note="its process died, perhaps for lack of memory; try a smaller -np"
                )
                _report(identifier, records, by_voxels, outcome)
                changed()
    return outcome


def _is_of_part(identifier: str, part: Part) -> bool:
    """By the name alone: a scan that arrives between two jobs must not move others from part to part."""
    index, total = part
    return zlib.crc32(identifier.encode()) % total == index - 1


def _refuse_other_plans(cases: dict[str, Case], target: str, folder: Path, plans_name: str) -> None:
    if any(case.status == "done" and case.preprocessing_hash != target for case in cases.values()):
        raise SemiSupervisedError(
            f"{folder} was preprocessed for other plans than {plans_name}; to replace its cases type the same command "
            "with --overwrite"
        )


def _skip_finished(
    wanted: dict[str, Case],
    before: dict[str, Case],
    records: dict[str, Case],
    folder: Path,
    overwrite: bool,
    outcome: Outcome,
) -> dict[str, Case]:
    """The wanted cases that are to be made; `records` learn where the images of finished ones have moved to."""
    present = set(os.listdir(folder))
    todo = {}
    for identifier, case in wanted.items():
        earlier = before.get(identifier)
        if earlier is None or earlier.status != "done" or earlier.origin != case.origin:
            todo[identifier] = case
            continue
        same = present.issuperset(case_files(identifier)) and is_same(case, earlier)
        if same and not overwrite:
            if (earlier.source, earlier.modified) != (case.source, case.modified):
                records[identifier] = replace(earlier, source=case.source, modified=case.modified)
            outcome.skipped.append(identifier)
        elif case.origin == "unlabelled" and not overwrite and _is_another(case, earlier):
            same_name = f"{earlier.source[0]} has the same identifier"
            _refuse(outcome, case, f"{same_name}; rename one of them, or take this one with --overwrite")
        else:
            todo[identifier] = case
    return todo


def _is_another(case: Case, earlier: Case) -> bool:
    """Whether it shares its identifier with other images that are there still, so that one of the two is lost."""
    return Path(earlier.source[0]).exists() and earlier.source != case.source and not has_same_images(case, earlier)


def _report(identifier: str, records: dict[str, Case], by_voxels: dict[str, str], outcome: Outcome) -> None:
    """Take a case that was just made, or refused, into the outcome, and tell what is unusual."""
    case = records[identifier]
    if case.status == "refused":
        if shutil.disk_usage(outcome.folder).free < max(case.size, _LITTLE_SPACE):
            raise SemiSupervisedError(
                f"no space left for {outcome.folder}; make room and type the same command again, it goes on"
            )
        _refuse(outcome, case, case.note)
        return
    outcome.made.append(identifier)
    if case.note:
        _say(f"{case.source[0]}: warning: {case.note}")
    if _takes_part(case):
        _refuse_twin(identifier, records, by_voxels, outcome)


def _settle(records: dict[str, Case], inventory: Inventory, known: dict[str, str], target: str, folder: Path) -> None:
    """Drop the records, and the files, of cases that have no place here any more."""
    present = set(os.listdir(folder))
    left: list[str] = []
    for identifier, case in list(records.items()):
        protected = inventory.protected_identifiers.get(identifier) or known.get(case.voxel_hash)
        if case.origin == "unlabelled" and protected:
            _say(f"{identifier} is now {protected}: removed from the unlabelled cases")
        elif identifier in inventory.cases:
            continue
        elif case.source[0] in inventory.faults and Path(case.source[0]).exists():
            pass  # It was named among the faults. A link to nothing may have been archived.
        elif case.status == "done" and case.preprocessing_hash != target:
            _say(f"{identifier} was preprocessed for other plans and is not among the given images: removed")
        elif case.status == "done" and present.issuperset(case_files(identifier)):
            if case.origin == "unlabelled" and str(Path(case.source[0]).parent) in inventory.folders:
                left.append(identifier)
            continue
        elif all(Path(file).exists() for file in case.source):
            continue  # Of another folder than those given now: it is still to be made.
        del records[identifier]
        remove_case(identifier, folder)
    if left:
        _say(
            f"{len(left)} finished cases stay although their images have left the folder, {left[0]} first; to withdraw "
            f"one delete {folder}/{left[0]}.b2nd, for example, and type the same command again"
        )


def _refuse_twin(identifier: str, records: dict[str, Case], by_voxels: dict[str, str], outcome: Outcome) -> None:
    """Of two unlabelled cases with the same voxels keep the first by name, whichever was finished first."""
    other = by_voxels.setdefault(records[identifier].voxel_hash, identifier)
    if other == identifier:
        return
    kept, twin = sorted((identifier, other))
    by_voxels[records[identifier].voxel_hash] = kept
    if twin not in records:  # It belongs to another part of the job array.
        kept, twin = twin, kept
    records[twin] = replace(records[twin], status="refused", note=f"its voxels are those of the case {kept}")
    remove_case(twin, outcome.folder)
    if twin in outcome.made:
        outcome.made.remove(twin)
    _refuse(outcome, records[twin], f"{records[twin].note}; remove one of them")


def _takes_part(case: Case) -> bool:
    return case.origin == "unlabelled" and case.status == "done"


def _waiting(folder: Path) -> Callable[[], None]:
    """Says once what is waited for."""
    lines = iter([f"another process is preprocessing for {folder}; waiting for its end"])

    def waiting() -> None:
        for line in lines:
            _say(line)

    return waiting


def _refuse(outcome: Outcome, case: Case, reason: str) -> None:
    outcome.refused.append(f"{case.source[0]}: {reason}")
    _say(f"{outcome.refused[-1]}: refused")


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


@contextmanager
def _own_folder(name: Path) -> Iterator[Path]:
    """A folder NAME.ID of this call alone, gone at the end; those of calls that were killed go at the start."""
    for left in list(name.parent.glob(f"{name.name}.*")):
        if left.is_dir():
            # A worker of the killed call may still write: under this name it finds nothing to write to or to move.
            shutil.rmtree(left.rename(_unique(name)), ignore_errors=True)
    folder = _unique(name)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unique(name: Path) -> Path:
    return name.with_name(f"{name.name}.{uuid4().hex}")

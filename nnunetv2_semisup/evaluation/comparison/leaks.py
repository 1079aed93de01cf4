"""Whether a run has trained on the voxels of a validation case under another name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_semisup.data.folders import variable_folder
from nnunetv2_semisup.data.leakage import voxel_hashes
from nnunetv2_semisup.data.manifest import read_manifest
from nnunetv2_semisup.data.raw_cases import training_cases
from nnunetv2_semisup.data.workers import Workers
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.comparison.runs import Run

CACHE = "labeled_voxel_hashes.json"


class VoxelNames:
    """Hashes of decoded voxels by case: of the manifest of unlabelled cases, else of the raw training images."""

    def __init__(self, dataset_folder: Path, dataset_json: Mapping[str, Any], reader: str) -> None:
        """Args: folder of nnUNet_preprocessed, content of dataset.json, nnU-Net's class that reads the images."""
        self._folder, self._dataset_json, self._reader = dataset_folder, dataset_json, reader
        self._raw: dict[str, str] = {}

    def hashes(self, cases: Sequence[str], data_identifier: str, processes: int) -> dict[str, str]:
        """Hash by case, of those of which one is known or can be made."""
        manifest = read_manifest(self._folder, data_identifier).cases
        known = {case: manifest[case].voxel_hash for case in cases if case in manifest and manifest[case].voxel_hash}
        missing = [case for case in cases if case not in known and case not in self._raw]
        if missing and (files := self._raw_files(missing)):
            with Workers(processes) as workers:
                self._raw |= voxel_hashes(files, self._reader, self._folder / CACHE, workers)
        return self._raw | known

    def _raw_files(self, cases: Sequence[str]) -> dict[str, tuple[str, ...]]:
        try:
            raw = variable_folder("nnUNet_raw") / self._folder.name
        except SemiSupervisedError:
            return {}
        found = training_cases(raw, self._dataset_json)
        there = {case: found[case] for case in cases if case in found}
        return {case: files for case, files in there.items() if all(Path(file).is_file() for file in files)}


def voxel_leak(run: Run, names: VoxelNames, processes: int) -> tuple[str | None, set[str]]:
    """Why a run is refused, in a line or None, and the cases that could not be looked at."""
    training = run.training
    if training is None:
        return None, set()
    cases = {*training.labeled, *training.unlabeled, *training.val}
    hashes = names.hashes(sorted(cases), training.data_identifier, processes)
    validating = {hashes[case]: case for case in training.val if case in hashes}
    for kind, its in (("unlabelled", training.unlabeled), ("labelled", training.labeled)):
        for case in its:
            if hashes.get(case) in validating:
                same = validating[hashes[case]]
                return f"its {kind} case {case} has the voxels of the validation case {same}", set()
    return None, cases - hashes.keys()


def not_looked_at(cases: Collection[str]) -> list[str]:
    """A line on the cases of which no voxels are at hand; none where there is no such case."""
    if not cases:
        return []
    return [
        f"{len(cases)} cases, e.g. {min(cases)}, could not be compared voxel by voxel with others: neither their "
        "manifest nor nnUNet_raw holds them"
    ]

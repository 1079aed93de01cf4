"""From folders to a comparison: find, refuse, measure, analyse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_semisup.data.folders import load_dataset_json, variable_folder
from nnunetv2_semisup.data.workers import processes
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.comparison import comparability
from nnunetv2_semisup.evaluation.comparison.comparability import Reference, check_allowed, reference_of
from nnunetv2_semisup.evaluation.comparison.finding import find_runs
from nnunetv2_semisup.evaluation.comparison.leaks import VoxelNames, not_looked_at, voxel_leak
from nnunetv2_semisup.evaluation.comparison.notes import notes_on
from nnunetv2_semisup.evaluation.comparison.rows import Row, make_rows, without
from nnunetv2_semisup.evaluation.comparison.runs import BASELINE, Refused, Run
from nnunetv2_semisup.evaluation.comparison.scoring import CaseScorer, Scores, score_runs
from nnunetv2_semisup.evaluation.comparison.statistics import MEAN, Array, Result, analyse
from nnunetv2_semisup.evaluation.comparison.structures import Structures


@dataclass(frozen=True)
class Comparison:
    """Everything that the report says."""

    dataset: str
    truth: Path
    """Folder of the true segmentations."""
    ending: str
    reader: str
    """nnU-Net's class that reads the dataset's files."""
    cases: tuple[str, ...]
    structures: tuple[str, ...]
    """Their mean first."""
    label_names: dict[str, int | list[int]]
    """As dataset.json has them."""
    results: list[Result]
    refused: list[Refused]
    warnings: list[str]


def compare(paths: Sequence[Path], allowed: Sequence[str]) -> Comparison:
    """Measure and compare all runs below `paths` that are comparable.

    Args:
        paths: of runs, see `find_runs`.
        allowed: keys in which runs may differ from LabeledOnly's.

    Raises:
        SemiSupervisedError: a path that is no run; no run of LabeledOnly; nothing to compare it with; an unknown key;
            two runs of the same name; a dataset that is not on this machine.
    """
    found = find_runs(paths)
    try:
        reference = reference_of(found.runs)
    except SemiSupervisedError as error:
        raise SemiSupervisedError(f"{error}{_reasons(found.refused)}") from None
    check_allowed(allowed, reference)
    folder = variable_folder("nnUNet_preprocessed") / reference.training.dataset
    if not folder.is_dir():
        raise SemiSupervisedError(f"{folder} does not exist; its gt_segmentations/ are the truth of these runs")
    dataset_json = load_dataset_json(folder)
    ending, reader = dataset_json["file_ending"], str(reference.training.plan["image_reader_writer"])
    refused, kept, unknown = list(found.refused), [], set[str]()
    voxels = VoxelNames(folder, dataset_json, reader)
    for run in found.runs:
        reason = comparability.why_refused(run, reference, allowed)
        if reason is None:
            reason, its_unknown = voxel_leak(run, voxels, processes())
            unknown |= its_unknown
        missing = None if reason else comparability.first_missing(_cases(run, reference), run, ending)
        if reason or missing:
            refused.append(missing or Refused(run.name, str(reason)))
        else:
            kept.append(run)
    rows, incomplete = make_rows(kept, reference)
    refused += incomplete
    _check_rows(rows, refused)
    structures = Structures.of(dataset_json)
    runs = [run for row in rows for run in row.runs]
    segmented = {case: [run for run in runs if case in _cases(run, reference)] for case in reference.cases}
    scores, faults = score_runs(runs, segmented, folder / "gt_segmentations", ending, CaseScorer(reader, structures))
    rows, faulty = without(rows, faults)
    refused += faulty
    _check_rows(rows, refused)
    values = {row.title: _values(row, scores, reference.cases) for row in rows}
    results = analyse(rows, values)
    unrecorded = [line for row in rows for run in row.runs for line in comparability.unknown(run)]
    return Comparison(
        dataset=reference.training.dataset,
        truth=folder / "gt_segmentations",
        ending=ending,
        reader=reader,
        cases=reference.cases,
        structures=(MEAN, *structures.names),
        label_names=dataset_json["labels"],
        results=results,
        refused=refused,
        warnings=[*unrecorded, *not_looked_at(unknown), *notes_on(results, len(reference.cases))],
    )


def _cases(run: Run, reference: Reference) -> tuple[str, ...]:
    return reference.cases if run.training is None else run.training.val


def _check_rows(rows: Sequence[Row], refused: Sequence[Refused]) -> None:
    """Raises SemiSupervisedError where nothing is left to compare, with the reasons."""
    reasons = _reasons(refused)
    if not any(run.is_baseline for row in rows for run in row.runs):
        raise SemiSupervisedError(f"no run of {BASELINE} is left to compare with{reasons}")
    if len(rows) < 2:
        raise SemiSupervisedError(f"there is only {rows[0].title}, and nothing to compare it with{reasons}")


def _reasons(refused: Sequence[Refused]) -> str:
    return "".join(f"; {line.name}: {line.reason}" for line in refused)


def _values(row: Row, scores: dict[Path, dict[str, Scores]], cases: Sequence[str]) -> Array:
    """[seeds, cases, structures + 1, metrics], the mean over the structures first."""
    seeds = []
    for runs in row.seeds.values():
        by_case = {case: found for run in runs for case, found in scores[run.predictions].items()}
        seeds.append([by_case[case] for case in cases])
    values = np.array(seeds)
    return np.concatenate([values.mean(axis=2, keepdims=True), values], axis=2)

"""All segmentations against the truth, case by case, in as many processes as there are cores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from tqdm import tqdm

from nnunetv2_semisup.data.workers import Workers, processes
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.comparison.runs import Run
from nnunetv2_semisup.evaluation.comparison.structures import Labels, Structures

Scores = npt.NDArray[np.float64]
_FEW = 60
"""Segmentations that this process measures sooner than another one starts."""


@dataclass(frozen=True)
class Task:
    """One case: the file of its truth, and the folders of segmentations to measure against it."""

    case: str
    truth: Path
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class CaseResult:
    """Of one case: scores [structures, metrics] or what is wrong with the segmentation, by its folder."""

    scores: dict[Path, Scores]
    faults: dict[Path, str]
    error: str = ""
    """What is wrong with the truth."""


@dataclass(frozen=True)
class CaseScorer:
    """Measures one case; holds one truth and one segmentation at a time."""

    reader: str
    """Name of nnU-Net's class that reads the dataset's files."""
    structures: Structures

    def __call__(self, task: Task) -> CaseResult:
        """Scores and faults of all segmentations."""
        scores: dict[Path, Scores] = {}
        faults: dict[Path, str] = {}
        try:
            truth, properties = self._read(task.truth)
        except Exception as error:
            return CaseResult({}, {}, f"{task.truth} cannot be read: {error}")
        for folder in task.folders:
            try:
                scores[folder] = self._scores(truth, properties, folder / task.truth.name)
            except Exception as error:
                faults[folder] = " ".join(str(error).split()) or type(error).__name__
        return CaseResult(scores, faults)

    def _scores(self, truth: Labels, properties: dict[str, Any], file: Path) -> Scores:
        import torch

        from nnunetv2_semisup.evaluation.comparison.metrics import structure_scores

        torch.set_num_threads(1)
        prediction, its_properties = self._read(file)
        if "spacing" not in its_properties:
            raise SemiSupervisedError(f"{file} has no spacing; copy {file.stem}.json of its image beside it")
        # nnU-Net copies labels to the truth without the file beside a TIFF that says its spacing.
        properties = its_properties | properties
        if difference := _other_geometry(truth.shape, properties, prediction.shape, its_properties):
            raise SemiSupervisedError(f"{file} has another geometry than the truth: {difference}")
        foreign = np.setdiff1d(prediction[~np.isin(prediction, self.structures.values)], [])
        if foreign.size:
            raise SemiSupervisedError(
                f"{file} holds the label {foreign[0]}, the dataset has {', '.join(map(str, self.structures.values))}"
            )
        counts = np.ones(truth.shape, bool) if self.structures.ignore is None else truth != self.structures.ignore
        masks = zip(self.structures.masks(truth), self.structures.masks(prediction), strict=True)
        return np.array([structure_scores(a & counts, b & counts, properties["spacing"]) for a, b in masks])

    def _read(self, file: Path) -> tuple[Labels, dict[str, Any]]:
        with redirect_stdout(StringIO()):
            values, properties = recursive_find_reader_writer_by_name(self.reader)().read_seg(str(file))
        if self.reader == "Tiff3DIO" and not file.with_suffix(".json").is_file():
            del properties["spacing"]  # The reader warns and assumes 1 mm.
        labels = values[0].astype(np.int32)
        if not np.array_equal(labels, values[0]):
            foreign = values[0][labels != values[0]][0]
            raise SemiSupervisedError(f"{file} holds values that are no labels, e.g. {foreign}")
        return labels, properties


def _other_geometry(
    shape: tuple[int, ...], properties: Mapping[str, Any], other_shape: tuple[int, ...], others: Mapping[str, Any]
) -> str | None:
    """What differs: the shape, or spacing, origin or direction by more than the rounding of a header."""
    if shape != other_shape:
        return f"{' x '.join(map(str, other_shape))} voxels instead of {' x '.join(map(str, shape))}"
    for ours, theirs in zip(_geometry(properties), _geometry(others), strict=True):
        (name, expected), (_, found) = ours, theirs
        if expected.shape != found.shape or not np.allclose(expected, found, rtol=1e-4, atol=1e-3):
            return f"{name} {found.round(3).tolist()} instead of {expected.round(3).tolist()}"
    return None


def _geometry(properties: Mapping[str, Any]) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """Spacing, and what nnU-Net's reader has kept of where the image lies."""
    yield "spacing", np.array(properties["spacing"], float)
    for key, values in properties.get("sitk_stuff", {}).items():
        if key in ("origin", "direction"):
            yield key, np.array(values, float)
    if "nibabel_stuff" in properties:
        yield "affine", np.array(properties["nibabel_stuff"]["original_affine"], float)


def score_runs(
    runs: Sequence[Run], cases: Mapping[str, Sequence[Run]], truth: Path, ending: str, scorer: CaseScorer
) -> tuple[dict[Path, dict[str, Scores]], dict[Path, str]]:
    """Scores [structures, metrics] by folder and case, and what is wrong with a folder that cannot be measured.

    Folders are those of `Run.predictions`; a run's name is for messages and need not be unique.

    Args:
        runs: all.
        cases: of every case the runs that segmented it.
        truth: folder of the true segmentations.
        ending: of all files.
        scorer: measures one case.

    Raises:
        SemiSupervisedError: a truth is missing or cannot be read, or a process died.
    """
    tasks = [
        Task(case, truth / f"{case}{ending}", tuple(dict.fromkeys(run.predictions for run in its)))
        for case, its in cases.items()
    ]
    for task in tasks:
        if not task.truth.is_file():
            raise SemiSupervisedError(f"there is no true segmentation {task.truth}; preprocess the dataset again")
    scores: dict[Path, dict[str, Scores]] = {run.predictions: {} for run in runs}
    faults: dict[Path, str] = {}
    count = sum(len(task.folders) for task in tasks)
    workers: AbstractContextManager[Workers | None] = nullcontext()
    if count > _FEW:
        workers = Workers(processes())
    with workers as pool, tqdm(desc="Measuring", total=count, unit=" segmentations", disable=None) as bar:
        results = ((task, scorer(task)) for task in tasks) if pool is None else pool.run(scorer, tasks)
        for task, result in results:
            if result is None or result.error:
                reason = result.error if result else f"measuring {task.case} needs more memory than there is"
                raise SemiSupervisedError(reason)
            for folder, found in result.scores.items():
                scores[folder][task.case] = found
            for folder, fault in result.faults.items():
                faults.setdefault(folder, fault)
            bar.update(len(task.folders))
    return scores, faults

"""Dice of a folder of predictions against a folder of truth, computed by nnU-Net's own evaluation."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnunetv2_semisup.data.structures import structures_of
from nnunetv2_semisup.errors import SemiSupervisedError


@dataclass(frozen=True)
class DiceScores:
    """Dice per case and structure, from 0 to 1; NaN where a structure is in neither truth nor prediction."""

    cases: tuple[str, ...]
    labels: tuple[str, ...]
    """Names of the foreground labels or regions, in dataset.json's order."""
    values: npt.NDArray[np.float64]
    """[cases, labels]"""

    @property
    def per_label(self) -> npt.NDArray[np.float64]:
        """Mean over the cases [labels]; NaN for a structure that no case shows."""
        return _nanmean(self.values, axis=0)

    @property
    def per_case(self) -> npt.NDArray[np.float64]:
        """Mean over the structures [cases]."""
        return _nanmean(self.values, axis=1)

    @property
    def foreground_mean(self) -> float:
        """nnU-Net's foreground mean: the mean over the structures of their means over the cases."""
        return float(_nanmean(self.per_label, axis=0))


def folder_dice(predictions: Path, truth: Path, dataset_json: Path, *, num_processes: int = 2) -> DiceScores:
    """Dice of every case in `truth`, which must be the cases in `predictions`.

    Labels, regions and ignore label come from dataset.json; voxels with the ignore label do not count.

    Raises:
        SemiSupervisedError: a case is in only one of the folders, or there is none.
    """
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    dataset = json.loads(dataset_json.read_text())
    ending: str = dataset["file_ending"]
    files = sorted(path.name for path in truth.glob(f"*{ending}"))
    _check_same_cases(predictions, truth, files, ending)
    names = {_key(value): name for name, value in dataset["labels"].items()}
    manager = LabelManager(dataset["labels"], regions_class_order=dataset.get("regions_class_order"))
    structures = structures_of(manager)
    reader = determine_reader_writer_from_dataset_json(dataset, str(truth / files[0]), verbose=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        metrics = compute_metrics_on_folder(
            str(truth), str(predictions), None, reader(), ending, structures, manager.ignore_label, num_processes
        )
    by_file = {Path(case["prediction_file"]).name: case["metrics"] for case in metrics["metric_per_case"]}
    values = np.array([[by_file[file][structure]["Dice"] for structure in structures] for file in files], float)
    return DiceScores(
        cases=tuple(file.removesuffix(ending) for file in files),
        labels=tuple(names[_key(structure)] for structure in structures),
        values=values,
    )


def _check_same_cases(predictions: Path, truth: Path, files: list[str], ending: str) -> None:
    if not files:
        raise SemiSupervisedError(f"no *{ending} in {truth}; name the folder with the true labels")
    predicted = {path.name for path in predictions.glob(f"*{ending}")}
    for missing, folder in ((set(files) - predicted, predictions), (predicted - set(files), truth)):
        if missing:
            raise SemiSupervisedError(f"{folder} lacks {len(missing)} of the cases to compare, e.g. {min(missing)}")


def _key(label: int | list[int] | tuple[int, ...]) -> tuple[int, ...]:
    return (int(label),) if isinstance(label, int | np.integer) else tuple(int(value) for value in label)


def _nanmean(values: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        return np.asarray(np.nanmean(values, axis=axis))

"""Voxels by their probability, and the file of those of all runs that benchmarks/calibration.py looked at."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

COLUMNS = ("run", "seed", "class", "region", "bin", "sum of probabilities", "voxels of the class", "voxels")
REGIONS = ("all", "border")


@dataclass(frozen=True)
class Bins:
    """Voxels by their probability.

    Attributes:
        probability: its sum in each bin.
        truth: voxels of the class in each bin.
        count: voxels in each bin.
    """

    probability: npt.NDArray[np.float64]
    truth: npt.NDArray[np.float64]
    count: npt.NDArray[np.float64]

    def __add__(self, other: Bins) -> Bins:
        """Of both sets of voxels together."""
        return Bins(self.probability + other.probability, self.truth + other.truth, self.count + other.count)

    @property
    def error(self) -> float:
        """The expected calibration error, in [0, 1]."""
        return float(np.abs(self.probability - self.truth).sum() / self.count.sum())

    @property
    def overconfidence(self) -> float:
        """By how much the probability of what is decided exceeds how often that is true, in [-1, 1].

        The same distances as in the error, but those of a network that is too careful are negative.
        """
        decided = np.where(self.probability > 0.5 * self.count, 1, -1)
        return float(((self.probability - self.truth) * decided).sum() / self.count.sum())


Key = tuple[str, int, int, str]
"""Run, seed, class, region."""


def csv_name(dataset: int) -> str:
    """Of the file with the bins of all its runs."""
    return f"calibration_{dataset}.csv"


def read(file: Path) -> dict[Key, Bins]:
    """What `write` has written; empty where there is no file."""
    bins: dict[Key, list[list[float]]] = {}
    if file.exists():
        with file.open(newline="") as stream:
            for row in csv.DictReader(stream):
                run, seed, label, region, _, *values = (row[name] for name in COLUMNS)
                bins.setdefault((run, int(seed), int(label), region), []).append([float(value) for value in values])
    return {key: Bins(*np.array(rows).T) for key, rows in bins.items()}


def write(file: Path, found: dict[Key, Bins]) -> None:
    """A row for every bin."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for key, bins in sorted(found.items()):
            columns = zip(bins.probability, bins.truth, bins.count, strict=True)
            for index, (probability, truth, count) in enumerate(columns):
                writer.writerow([*key, index, f"{probability:.2f}", f"{truth:.0f}", f"{count:.0f}"])

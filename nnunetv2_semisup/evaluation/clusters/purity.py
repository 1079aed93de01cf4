"""How well clusters go with labels."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
"""Voxels [clusters, labels]; the first label is background."""
COLUMNS = ("case", "sub_head", "purity", "foreground_dice")


@dataclass(frozen=True)
class Purity:
    """One sub-head's clusters against the labels of one case.

    Attributes:
        purity: share of the voxels whose label is the commonest one of their cluster; NaN without a voxel.
        one_cluster: the same of a single cluster, which is the share of the commonest label: what purity begins at.
        foreground_dice: of the foreground with the union of all clusters that are mostly foreground; NaN without
            foreground.
    """

    case: str
    sub_head: int
    purity: float
    one_cluster: float
    foreground_dice: float


def measure(
    case: str, sub_head: int, clusters: npt.NDArray[np.integer[Any]], labels: npt.NDArray[np.integer[Any]],
    n_clusters: int, values: Sequence[int],
) -> Purity:  # fmt: skip
    """Compare a map with a label file of the same shape.

    Args:
        case: identifier.
        sub_head: counted from 1.
        clusters: from 0 to n_clusters - 1.
        labels: as in the file.
        n_clusters: how many there are.
        values: that labels may have, ascending, 0 first; voxels of other values (the ignore label) do not count.
    """
    counts = count(clusters, labels, n_clusters, values)
    total = int(counts.sum())
    return Purity(
        case,
        sub_head,
        purity=int(counts.max(axis=1).sum()) / total if total else math.nan,
        one_cluster=int(counts.sum(axis=0).max()) / total if total else math.nan,
        foreground_dice=foreground_dice(counts),
    )


def count(
    clusters: npt.NDArray[np.integer[Any]],
    labels: npt.NDArray[np.integer[Any]],
    n_clusters: int,
    values: Sequence[int],
) -> Counts:
    """How many voxels of each cluster have each label."""
    known = np.isin(labels, values)
    pairs = clusters[known].astype(np.int64) * len(values) + np.searchsorted(values, labels[known])
    return np.bincount(pairs, minlength=n_clusters * len(values)).reshape(n_clusters, len(values))


def foreground_dice(counts: Counts) -> float:
    """Dice of the foreground with the union of those clusters of which more than half is foreground."""
    inside, size = counts[:, 1:].sum(axis=1), counts.sum(axis=1)
    chosen = 2 * inside > size
    foreground = int(inside.sum())
    return 2 * int(inside[chosen].sum()) / (int(size[chosen].sum()) + foreground) if foreground else math.nan


def write_csv(rows: Sequence[Purity], file: Path) -> None:
    """One line a case and sub-head; a number that does not exist is empty."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow([row.case, row.sub_head, *(_cell(value) for value in (row.purity, row.foreground_dice))])


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"

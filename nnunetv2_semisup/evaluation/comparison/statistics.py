"""Means, spreads and differences of every row, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import wilcoxon

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.bootstrap import Interval, paired_intervals, share_interval
from nnunetv2_semisup.evaluation.comparison.rows import Row
from nnunetv2_semisup.evaluation.comparison.runs import ALL

Array = npt.NDArray[np.float64]
MEAN = "mean"
"""Name of what comes before the structures: the mean over them, case by case."""


@dataclass(frozen=True)
class Difference:
    """A row minus its baseline, per structure (the mean first) and metric."""

    baseline: str
    """Title of the baseline's row."""
    seeds: int
    """Pairs of seeds."""
    intervals: list[list[Interval]]
    p: Array
    """Wilcoxon's signed-rank test over the cases, of the means over the seeds; [structures + 1, metrics]."""
    p_holm: Array
    """The same, corrected for the number of rows that are compared."""
    share: Interval | None
    """Share of the gap in mean Dice between few and all labels that is closed; None where no row has all labels."""


@dataclass(frozen=True)
class Result:
    """A row with its numbers."""

    row: Row
    values: Array
    """[seeds, cases, structures + 1, metrics]; the mean over the structures comes first."""
    difference: Difference | None
    """None for a baseline."""

    @property
    def mean(self) -> Array:
        """Over seeds and cases [structures + 1, metrics]."""
        return np.asarray(self.values.mean(axis=(0, 1)))

    @property
    def deviation(self) -> Array:
        """Standard deviation over the seeds of the mean over the cases; NaN for one seed."""
        if len(self.values) < 2:
            return np.full(self.values.shape[2:], np.nan)
        return np.asarray(self.values.mean(axis=1).std(axis=0, ddof=1))


def analyse(rows: Sequence[Row], values: Mapping[str, Array]) -> list[Result]:
    """Numbers of every row, from the values [seeds, cases, structures + 1, metrics] by the row's title."""
    baselines: dict[int | str, Row] = {}
    for row in rows:
        if row.role != "method":
            if row.labels in baselines:
                raise SemiSupervisedError(
                    f"{baselines[row.labels].title} and {row.title} could both be the baseline; name one of them"
                )
            baselines[row.labels] = row
    full = baselines.get(ALL)
    compared = {row.title: _difference(row, baselines[row.labels], full, values) for row in rows
                if row is not baselines.get(row.labels) and row.labels in baselines}  # fmt: skip
    if full is not None and len(baselines) > 1:
        few = baselines[min(count for count in baselines if count != ALL)]
        compared[full.title] = _difference(full, few, None, values)
    _correct([compared[row.title] for row in rows if row.role == "method" and row.title in compared])
    return [Result(row, values[row.title], compared.get(row.title)) for row in rows]


def _difference(row: Row, baseline: Row, full: Row | None, values: Mapping[str, Array]) -> Difference:
    ours, theirs, *most = _paired([row, baseline] if full in (None, baseline) else [row, baseline, full], values)
    difference = ours - theirs
    seeds, cases, *kinds = difference.shape
    intervals = paired_intervals(difference.reshape(seeds, cases, -1))
    tests = np.array([_wilcoxon(column) for column in difference.mean(axis=0).reshape(cases, -1).T]).reshape(kinds)
    share = share_interval(difference[..., 0, 0], (most[0] - theirs)[..., 0, 0]) if most else None
    metrics = kinds[1]
    return Difference(
        baseline=baseline.title,
        seeds=seeds,
        intervals=[intervals[start : start + metrics] for start in range(0, len(intervals), metrics)],
        p=tests,
        p_holm=tests.copy(),
        share=share,
    )


def _paired(rows: Sequence[Row], values: Mapping[str, Array]) -> list[Array]:
    """The values of several rows on the seeds that they share.

    A row with one set of segmentations whose seed is unknown, and LabeledOnly with all labels in one seed, go with
    every seed of the others.

    Raises SemiSupervisedError where no seed is shared.
    """
    with_seeds = [row for row in rows if not _goes_with_all(row)]
    shared = [seed for seed in (with_seeds or rows)[0].seeds if all(seed in row.seeds for row in with_seeds)]
    if not shared:
        raise SemiSupervisedError(
            f"{' and '.join(row.title for row in with_seeds)} have no seed in common, so their runs are no pairs; "
            "train one of them with the other's seeds"
        )
    indices = [[0] * len(shared) if _goes_with_all(row) else [list(row.seeds).index(s) for s in shared] for row in rows]
    return [values[row.title][index] for row, index in zip(rows, indices, strict=True)]


def _goes_with_all(row: Row) -> bool:
    return len(row.seeds) == 1 and (row.labels == ALL or (row.is_external and "" in row.seeds))


def _wilcoxon(differences: Array) -> float:
    """Two-sided p; 1 where no case differs."""
    return float(wilcoxon(differences).pvalue) if np.any(differences) else 1.0


def _correct(differences: Sequence[Difference]) -> None:
    """Holm's step-down correction (1979) over the rows, apart for each structure and metric; in place."""
    if not differences:
        return
    p = np.stack([difference.p for difference in differences])
    order = np.argsort(p, axis=0)
    factors = np.arange(len(p), 0, -1)[:, None, None]
    corrected = np.minimum(np.maximum.accumulate(np.take_along_axis(p, order, 0) * factors, axis=0), 1)
    for rank in range(len(p)):
        for index in np.ndindex(p.shape[1:]):
            differences[order[(rank, *index)]].p_holm[index] = corrected[(rank, *index)]

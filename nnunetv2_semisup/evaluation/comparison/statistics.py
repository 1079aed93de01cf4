"""Means, spreads and differences of every row, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.bootstrap import Interval, paired_intervals, share_interval
from nnunetv2_semisup.evaluation.comparison.rows import Row
from nnunetv2_semisup.evaluation.comparison.runs import ALL
from nnunetv2_semisup.evaluation.significance import holm, wilcoxon_p

Array = npt.NDArray[np.float64]
MEAN = "mean"
"""Name of what comes before the structures: the mean over them, case by case."""


@dataclass(frozen=True)
class Difference:
    """A row minus its baseline, per structure (the mean first) and metric."""

    baseline: str
    """Title of the baseline's row."""
    pairs: int
    """Pairs of seeds; 1 where means over the seeds are compared."""
    means: tuple[Array, Array]
    """Of the row and of its baseline over the pairs and the cases, [structures + 1, metrics] each."""
    cases: Array
    """Mean over the pairs [cases, structures + 1, metrics]."""
    intervals: list[list[Interval]]
    p: Array
    """Wilcoxon's signed-rank test over the cases, of the means over the pairs; [structures + 1, metrics]."""
    p_holm: Array
    """The same, corrected for the number of rows that are compared."""
    share: Interval | None
    """Share of the gap in mean Dice between few and all labels that is closed; None where no row has all labels, NaN
    where the three rows share no seed or the gap is not clear of 0."""


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
    ours, theirs = _paired(row, baseline, values)
    difference = ours - theirs
    pairs, cases, *kinds = difference.shape
    intervals = paired_intervals(difference.reshape(pairs, cases, -1))
    tests = np.array([wilcoxon_p(column) for column in difference.mean(axis=0).reshape(cases, -1).T]).reshape(kinds)
    metrics = kinds[1]
    return Difference(
        baseline=baseline.title,
        pairs=pairs,
        means=(np.asarray(ours.mean(axis=(0, 1))), np.asarray(theirs.mean(axis=(0, 1)))),
        cases=np.asarray(difference.mean(axis=0)),
        intervals=[intervals[start : start + metrics] for start in range(0, len(intervals), metrics)],
        p=tests,
        p_holm=tests.copy(),
        share=None if full in (None, baseline) else _share(row, baseline, full, values),
    )


def _paired(row: Row, baseline: Row, values: Mapping[str, Array]) -> tuple[Array, Array]:
    """Values [pairs, cases, ...] of two rows on the seeds that they share.

    Where one set stands for all seeds, or no seed is shared, these are the means over the seeds: one pair. Repeating
    the one for every seed of the other would count a single training as several.
    """
    shared = [seed for seed in row.seeds if seed in baseline.seeds]
    if _is_one(row) or not shared:
        return _mean(row, values), _mean(baseline, values)
    return _at(row, shared, values), _at(baseline, shared, values)


def _share(row: Row, baseline: Row, full: Row, values: Mapping[str, Array]) -> Interval:
    """Share of the gap to `full`, on the seeds that all three share. One seed of `full` goes with every pair."""
    if _is_one(row):
        ours, theirs, most = (_mean(each, values) for each in (row, baseline, full))
    else:
        shared = [seed for seed in row.seeds if seed in baseline.seeds and (seed in full.seeds or _is_one(full))]
        if not shared:
            return Interval(np.nan, np.nan, np.nan)
        ours, theirs = _at(row, shared, values), _at(baseline, shared, values)
        most = values[full.title] if _is_one(full) else _at(full, shared, values)
    return share_interval((ours - theirs)[..., 0, 0], (most - theirs)[..., 0, 0])


def _at(row: Row, seeds: Sequence[str], values: Mapping[str, Array]) -> Array:
    return values[row.title][[list(row.seeds).index(seed) for seed in seeds]]


def _mean(row: Row, values: Mapping[str, Array]) -> Array:
    """Over the seeds, as if it were one [1, cases, ...]."""
    return np.asarray(values[row.title].mean(axis=0, keepdims=True))


def _is_one(row: Row) -> bool:
    """Whether one set stands for all seeds: segmentations without one, or LabeledOnly with all labels trained once."""
    return len(row.seeds) == 1 and (row.role == "all labels" or "" in row.seeds)


def _correct(differences: Sequence[Difference]) -> None:
    """Correct for the number of rows, in place."""
    if differences:
        for difference, p in zip(differences, holm(np.stack([each.p for each in differences])), strict=True):
            difference.p_holm[:] = p

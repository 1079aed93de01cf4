"""How sure a paired difference is: one interval over cases and seeds, for every table of the project."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Array = npt.NDArray[np.float64]

DRAWS = 10_000
"""Bootstrap samples."""
_BLOCK = 2_000_000
"""Weights drawn at a time: 16 MB, whatever the number of cases."""
_SEED = 0


class Interval(NamedTuple):
    """An estimate and the ends of its interval, which are NaN where one case is all there is."""

    mean: float
    low: float
    high: float


def paired_interval(differences: Array, level: float = 0.95, draws: int = DRAWS) -> Interval:
    """Mean of paired differences with an interval for other cases and other seeds.

    Cases and seeds are crossed: every seed segments the same cases. The two sources of chance are treated apart and
    added in quadrature on each side of the mean, as in the modified large-sample intervals of Graybill & Wang (1980):

    - cases by a studentised bootstrap (Efron 1981) of the means over the seeds, which follows the skewness that a few
      failed cases cause, and is never taken narrower than Student's t;
    - seeds by Student's t with one degree of freedom less than seeds: three values cannot be resampled, and a
      percentile bootstrap of them covers 86 to 93 % instead of 95 %.

    What neither explains is in both parts, so the interval is rather too wide than too narrow; with two seeds it is
    much too wide (12.7 standard errors). With one seed it speaks of the cases alone.

    Args:
        differences: [seeds, cases], method minus baseline on the same case and seed.
        level: coverage, in (0, 1).
        draws: bootstrap samples.

    Returns:
        Mean, lower and upper end.

    >>> paired_interval(np.full((3, 5), 0.25))
    Interval(mean=0.25, low=0.25, high=0.25)
    """
    return paired_intervals(differences[:, :, None], level, draws)[0]


def paired_intervals(differences: Array, level: float = 0.95, draws: int = DRAWS) -> list[Interval]:
    """The same for several quantities at once: `differences` is [seeds, cases, quantities]."""
    centred = differences.mean(axis=0) - differences.mean(axis=(0, 1))
    quantities = centred.shape[1]
    means = _resampled_means(np.hstack([centred, centred**2]), draws)
    return [
        _interval(differences[:, :, i], means[:, i], means[:, quantities + i], (1 - level) / 2)
        for i in range(quantities)
    ]


def share_interval(part: Array, whole: Array, level: float = 0.95, draws: int = DRAWS) -> Interval:
    """How much of a gap is closed: mean of `part` over mean of `whole`, with its interval.

    The interval holds every share t for which the interval of `part - t * whole` holds 0 (Fieller 1954), so numerator
    and denominator may vary together. Where the gap itself is not clear of 0 there is no share: all three are NaN.

    Args:
        part: [seeds, cases], method minus baseline.
        whole: [seeds, cases], full supervision minus baseline, on the same cases and seeds.
        level: coverage, in (0, 1).
        draws: bootstrap samples.
    """
    if not paired_interval(whole, level, draws).low > 0:
        return Interval(np.nan, np.nan, np.nan)
    x, y = (values.mean(axis=0) - values.mean() for values in (part, whole))
    mean_x, mean_y, mean_xx, mean_xy, mean_yy = _resampled_means(np.stack([x, y, x * x, x * y, y * y], 1), draws).T

    def holds(t: float) -> bool:
        means, squares = mean_x - t * mean_y, mean_xx - 2 * t * mean_xy + t * t * mean_yy
        interval = _interval(part - t * whole, means, squares, (1 - level) / 2)
        return interval.low <= 0 <= interval.high

    share = float(part.mean() / whole.mean())
    return Interval(*(round(value, 6) for value in (share, _last(holds, share, -1), _last(holds, share, 1))))


def _last(holds: Callable[[float], bool], start: float, direction: int) -> float:
    """The last value that holds on the way from `start`, which holds, in a direction; to a millionth of the way."""
    step = 1e-3
    while holds(start + direction * step):
        step *= 2
        if step > 1e6:
            return direction * np.inf
    low, high = 0.0, step
    while high - low > 1e-6 * step:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(start + direction * middle) else (low, middle)
    return start + direction * low


def _resampled_means(columns: Array, draws: int) -> Array:
    """Means of columns [cases, n] over cases drawn with replacement: [draws, n]; the same draws on every call."""
    cases = len(columns)
    generator = np.random.default_rng(_SEED)
    block = max(_BLOCK // cases, 1)
    sizes = [min(block, draws - start) for start in range(0, draws, block)]
    return np.concatenate([generator.multinomial(cases, np.full(cases, 1 / cases), n) @ columns for n in sizes]) / cases


def _interval(differences: Array, means: Array, squares: Array, tail: float) -> Interval:
    """From differences [seeds, cases] and, for each draw of cases, the centred mean and the mean square."""
    seeds, cases = differences.shape
    mean = float(differences.mean())
    if cases < 2:
        return Interval(mean, np.nan, np.nan)
    case_error = float(differences.mean(axis=0).std(ddof=1)) / np.sqrt(cases)
    below, above = _studentized_tails(means, squares, cases, tail)
    seed_part = 0.0
    if seeds > 1:
        seed_part = float(stdtrit(seeds - 1, 1 - tail) * differences.mean(axis=1).std(ddof=1) / np.sqrt(seeds))
    low, high = mean - np.hypot(seed_part, above * case_error), mean + np.hypot(seed_part, below * case_error)
    return Interval(*(round(float(value), 10) for value in (mean, low, high)))


def _studentized_tails(means: Array, squares: Array, cases: int, tail: float) -> tuple[float, float]:
    """Standard errors by which a drawn mean lies below and above the true one in a share `tail` each; at least t's."""
    errors = np.sqrt(np.maximum(squares - means**2, 0) / (cases - 1))
    # A draw of one case over and over has no standard error of its own.
    usable = errors > 1e-6 * np.sqrt(squares.max())
    students = float(stdtrit(cases - 1, 1 - tail))
    if not usable.any():
        return students, students
    low, high = np.quantile(means[usable] / errors[usable], [tail, 1 - tail])
    return max(students, -float(low)), max(students, float(high))

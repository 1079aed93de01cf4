"""Intervals for paired differences over cases and seeds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def paired_interval(
    differences: NDArray[np.float64], level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of paired differences and its hierarchical bootstrap interval.

    Seeds are resampled, and cases are resampled once for all of them, since the same cases were segmented under every
    seed.

    Args:
        differences: [seeds, cases], method minus baseline on the same case and seed.
        level: coverage, in (0, 1).
        draws: bootstrap samples.
        seed: of the resampling.

    Returns:
        Mean, lower and upper end.

    >>> paired_interval(np.full((3, 5), 0.02))
    (0.02, 0.02, 0.02)
    """
    generator = np.random.default_rng(seed)
    seeds, cases = differences.shape
    rows = generator.integers(seeds, size=(draws, seeds))
    columns = generator.integers(cases, size=(draws, cases))
    means = differences[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2))
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return tuple(round(float(value), 10) for value in (differences.mean(), low, high))  # type: ignore[return-value]

"""Two methods on the same cases: the mean difference and how sure it is."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PairedDifference:
    """Mean of per-case differences with its 95 % bootstrap interval over the cases."""

    mean: float
    low: float
    high: float
    n_better: int
    """Cases in which the difference is above 0."""
    n_cases: int


def paired_difference(
    baseline: npt.NDArray[np.float64], method: npt.NDArray[np.float64], *, n_resamples: int = 10_000, seed: int = 0
) -> PairedDifference:
    """`method` minus `baseline`, both [cases]; cases where either is NaN do not count.

    The interval is the percentile bootstrap (Efron 1979): it tells how much the mean depends on which cases were
    drawn, not how much it depends on the training's seed.

    Raises:
        ValueError: no case counts, or the shapes differ.
    """
    if baseline.shape != method.shape:
        raise ValueError(f"{baseline.shape} against {method.shape}: not the same cases")
    differences = method - baseline
    differences = differences[~np.isnan(differences)]
    if differences.size == 0:
        raise ValueError("no case has a value in both")
    draws = np.random.default_rng(seed).integers(differences.size, size=(n_resamples, differences.size))
    low, high = np.percentile(differences[draws].mean(axis=1), [2.5, 97.5])
    return PairedDifference(
        float(differences.mean()), float(low), float(high), int((differences > 0).sum()), differences.size
    )

"""Two methods on the same cases: the mean difference and how sure it is."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunetv2_semisup.evaluation.bootstrap import paired_interval


@dataclass(frozen=True)
class PairedDifference:
    """Mean of per-case differences with its 95 % interval over the cases."""

    mean: float
    low: float
    high: float
    n_better: int
    """Cases in which the difference is above 0."""
    n_cases: int


def paired_difference(baseline: npt.NDArray[np.float64], method: npt.NDArray[np.float64]) -> PairedDifference:
    """`method` minus `baseline`, both [cases]; cases where either is NaN do not count.

    The interval is that of `paired_interval` for one seed: it tells how much the mean depends on which cases were
    drawn, not how much it depends on the training's seed. Of one case it is NaN.

    Raises:
        ValueError: no case counts, or the shapes differ.
    """
    if baseline.shape != method.shape:
        raise ValueError(f"{baseline.shape} against {method.shape}: not the same cases")
    differences = method - baseline
    differences = differences[~np.isnan(differences)]
    if differences.size == 0:
        raise ValueError("no case has a value in both")
    interval = paired_interval(differences[None])
    return PairedDifference(*interval, int((differences > 0).sum()), differences.size)

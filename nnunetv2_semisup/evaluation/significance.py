"""Whether the cases of two rows differ at all: a test that no single case decides."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import wilcoxon

Array = npt.NDArray[np.float64]


def wilcoxon_p(differences: Array) -> float:
    """Two-sided p of Wilcoxon's signed-rank test of differences [cases]; 1 where no case differs.

    >>> wilcoxon_p(np.array([0.1, 0.2, 0.3, 0.4]))
    0.125
    """
    return float(wilcoxon(differences).pvalue) if np.any(differences) else 1.0


def holm(p: Array) -> Array:
    """Step-down correction (Holm 1979) of p values [rows, ...] for the number of rows, apart for each of the rest.

    >>> holm(np.array([0.04, 0.01, 0.03])).tolist()
    [0.06, 0.03, 0.06]
    """
    order = np.argsort(p, axis=0)
    factors = np.arange(len(p), 0, -1).reshape(-1, *[1] * (p.ndim - 1))
    corrected = np.minimum(np.maximum.accumulate(np.take_along_axis(p, order, 0) * factors, axis=0), 1)
    result = np.empty_like(p)
    np.put_along_axis(result, order, corrected, axis=0)
    return result

"""The Gaussian ramp by which the field lets weights and thresholds grow."""

from __future__ import annotations

import math


def gaussian_ramp(t: float) -> float:
    """exp(-5 (1 - t)^2) of Laine & Aila, ICLR 2017: from 0.007 at t = 0 to 1 at t = 1.

    >>> [round(gaussian_ramp(t), 3) for t in (0, 0.5, 1)]
    [0.007, 0.287, 1.0]
    """
    return math.exp(-5 * (1 - t) ** 2)

"""The number format that losses compute in."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """Return x in float32, or unchanged where it is float64 already.

    Half formats cannot hold what logarithms and sums need: 1e-8 is 0 in float16, and a count over 2 x 64^3 voxels
    is infinite.
    """
    return x if x.dtype == torch.float64 else x.float()


def without_autocast(x: Tensor) -> torch.autocast:
    """Context in which operations on x's device keep the number format of their inputs."""
    return torch.autocast(x.device.type, enabled=False)

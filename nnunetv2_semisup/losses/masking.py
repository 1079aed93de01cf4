"""Validity masks: which voxels of a map count."""

from __future__ import annotations

import torch
from torch import Tensor


def check_mask(values: Tensor, mask: Tensor) -> None:
    """Require a mask [B, 1, *S] for values [B, C, *S].

    Raises:
        ValueError: it has another shape.
    """
    if mask.shape != (values.shape[0], 1, *values.shape[2:]):
        raise ValueError(f"the mask of maps {tuple(values.shape)} must be [B, 1, *S], got {tuple(mask.shape)}")


def masked(values: Tensor, mask: Tensor | None) -> Tensor:
    """Values [B, C, *S] with 0 outside mask [B, 1 or C, *S] (bool or 0/1), whatever stood there; None: all are valid.

    Raises:
        ValueError: the mask does not fit the values.
    """
    if mask is None:
        return values
    if mask.shape != values.shape:
        check_mask(values, mask)
    return values.masked_fill(~mask.bool(), 0)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values [B, C, *S] over channels and valid voxels; 0, attached to the graph, where none is valid.

    Raises:
        ValueError: the mask does not fit the values.
    """
    if mask is None:
        return values.sum() / max(values.numel(), 1)
    total = masked(values, mask).sum()
    count = mask.bool().sum() * (values.shape[1] // mask.shape[1])
    return total / count.clamp_min(1)


def valid_range(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Per sample [B, 1, ...] the least value in a bool mask of x's shape, and the distance to the greatest.

    Without a valid voxel inf, and -inf.
    """
    axes = tuple(range(1, x.ndim))
    low = x.masked_fill(~valid, torch.inf).amin(axes, keepdim=True)
    return low, x.masked_fill(~valid, -torch.inf).amax(axes, keepdim=True) - low

"""Validity masks: which voxels of a map count."""

from __future__ import annotations

from torch import Tensor


def masked(values: Tensor, mask: Tensor | None) -> Tensor:
    """Values [B, C, *S] with 0 outside mask [B, 1, *S] (bool or 0/1), whatever stood there; None: all are valid.

    Raises:
        ValueError: the mask does not fit the values.
    """
    if mask is None:
        return values
    return values.masked_fill(~_inside(values, mask), 0)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values [B, C, *S] over channels and valid voxels; 0, attached to the graph, where none is valid.

    Raises:
        ValueError: the mask does not fit the values.
    """
    if mask is None:
        return values.sum() / max(values.numel(), 1)
    count = _inside(values, mask).sum() * values.shape[1]
    return masked(values, mask).sum() / count.clamp_min(1)


def _inside(values: Tensor, mask: Tensor) -> Tensor:
    if mask.shape != (values.shape[0], 1, *values.shape[2:]):
        raise ValueError(f"the mask of maps {tuple(values.shape)} must be [B, 1, *S], got {tuple(mask.shape)}")
    return mask.bool()

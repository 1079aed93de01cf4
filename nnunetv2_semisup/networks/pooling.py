"""Features of regions in place of those of voxels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def regional_means(features: Tensor, regions: Sequence[int], mask: Tensor | None = None) -> Tensor:
    """Means of features [B, C, *S] over a grid of so many regions per axis, [B, C, *regions].

    With a mask [B, 1, *S] of 0 and 1, of its voxels alone, and 0 in a region that has none.
    """
    if mask is not None:
        return regional_means(features * mask, regions) / regional_means(mask, regions).clamp_min(1e-6)
    if len(regions) == 3:
        return F.adaptive_avg_pool3d(features, (regions[0], regions[1], regions[2]))
    return F.adaptive_avg_pool2d(features, (regions[0], regions[1]))


def mostly(mask: Tensor, regions: Sequence[int], least: float = 0.5) -> Tensor:
    """Where a mask [B, 1, *S], bool or 0/1, fills at least this share of a region: bool [B, 1, *regions]."""
    return regional_means(mask.float(), regions) >= least

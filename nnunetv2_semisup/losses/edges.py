"""Where an image has edges."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_semisup.losses.masking import check_mask, masked, valid_range
from nnunetv2_semisup.losses.precision import full_precision, without_autocast

_PERCENTILE_VOXELS = 2**16
"""Voxels that percentiles are taken from: their error is then far below that of choosing the 1st and the 99th."""


@torch.no_grad()
def edge_map(
    image: Tensor, spacing: Sequence[float], gamma: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Strength of the edges of an image, dimensionless, in [0, 1], and where it is known. Without gradient.

    Peng et al., MedIA 2024 (10.1016/j.media.2024.103150): the magnitude of the gradient, averaged over the channels,
    scaled per sample to [0, 1], to the power gamma.

    Args:
        image: [B, C, *S] of image channels, in any unit.
        spacing: mm per voxel, one number per spatial axis.
        gamma: exponent, above 0; below 1 it lifts weak edges. The authors take 0.75 (heart) and 0.5 (prostate, spleen).
        mask: [B, 1, *S], bool or 0/1; what stands outside has no influence. None: all is valid.

    Returns:
        edges: [B, 1, *S] of at least float32, 0 where not valid, and 0 everywhere in a sample without contrast.
        valid: [B, 1, *S], bool, the mask of the edges: voxels whose neighbours along all axes are in `mask` too, since
            a difference across its border is none of the image's. To be handed to `losses.boundary.boundary_loss`.

    Raises:
        ValueError: spacing, gamma or mask do not fit.

    Departures: central differences in 1/mm with a replicated border (the released code: backward ones per voxel, which
    wrap around), so that flips commute and anisotropic images count alike in all directions; each channel of a sample
    first clipped to its 1st and 99th percentile and divided by their distance, so that neither hot voxels nor a
    channel's unit decide (large patches: percentiles of an even subsample); masks.

    Example:
        >>> import torch
        >>> edges, valid = edge_map(torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]), spacing=[1.0], gamma=1.0)
        >>> edges.tolist()
        [[[0.0, 1.0, 1.0, 0.0]]]
    """
    if len(spacing) != image.ndim - 2 or min(spacing, default=0) <= 0:
        raise ValueError(f"the spacing needs one number above 0 per spatial axis, got {list(spacing)}")
    if gamma <= 0:
        raise ValueError(f"gamma must be above 0, got {gamma}")
    if mask is not None:
        check_mask(image, mask)
    with without_autocast(image):
        image = full_precision(masked(image, mask))
        inside = torch.ones_like(image[:, :1], dtype=torch.bool) if mask is None else mask.bool()
        valid = inside
        for axis in range(2, image.ndim):
            before, after = _neighbours(inside, axis)
            valid = valid & before & after
        edges = torch.zeros_like(image[:, :1])
        for edge, sample, known in zip(edges, image, inside, strict=True):
            for channel in sample:
                edge += _gradient_magnitude(_clipped(channel, known[0]), spacing) / len(sample)
        low, span = valid_range(edges, valid)
        return masked((edges - low) / torch.where(span > 0, span, 1), valid).pow(gamma), valid


def _neighbours(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The voxels before and after each one along an axis, with a replicated border."""
    index = torch.arange(x.shape[axis], device=x.device)
    return x.index_select(axis, (index - 1).clamp_min(0)), x.index_select(axis, (index + 1).clamp_max(len(index) - 1))


def _clipped(channel: Tensor, inside: Tensor) -> Tensor:
    """A channel [*S] between its 1st and 99th percentile within a mask, divided by their distance."""
    positions = inside.flatten().nonzero()[:, 0]
    if not len(positions):
        return torch.zeros_like(channel)
    # An odd step does not fall on the same columns of every row.
    step = -(-len(positions) // _PERCENTILE_VOXELS) | 1
    low, high = torch.quantile(channel.flatten()[positions[::step]], channel.new_tensor([0.01, 0.99]))
    return channel.clamp(low, high) / torch.where(high > low, high - low, 1)


def _gradient_magnitude(channel: Tensor, spacing: Sequence[float]) -> Tensor:
    """Length of the gradient of a channel [*S], per mm, by central differences."""
    squares = torch.zeros_like(channel)
    for axis, mm in enumerate(spacing):
        before, after = _neighbours(channel, axis)
        after -= before
        squares.addcmul_(after, after, value=1 / (2 * mm) ** 2)
    return squares.sqrt()

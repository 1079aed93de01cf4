"""Contrast of patches on the device, drawn from a generator of one's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_exponents(batch_size: int, limits: Sequence[float], generator: torch.Generator) -> list[float]:
    """One exponent for each sample, uniformly between two limits. The generator is on the CPU."""
    low, high = limits
    return (low + (high - low) * torch.rand(batch_size, generator=generator)).tolist()


def gamma_contrast(images: Tensor, exponents: Sequence[float]) -> Tensor:
    """Raise each channel's intensities, scaled to [0, 1], to the sample's exponent; its range stays.

    Args:
        images: [B, C, *S], in any unit. A constant channel stays as it is.
        exponents: B numbers above 0; below 1 brightens.

    >>> gamma_contrast(torch.tensor([[[0.0, 1.0, 4.0]]]), [0.5]).tolist()
    [[[0.0, 2.0, 4.0]]]
    """
    axes = tuple(range(2, images.ndim))
    low = images.amin(axes, keepdim=True)
    span = images.amax(axes, keepdim=True) - low
    power = images.new_tensor(exponents).reshape(-1, *[1] * (images.ndim - 1))
    return ((images - low) / torch.where(span > 0, span, 1)) ** power * span + low

"""The exact joint distribution of cluster assignments at every displacement within a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunetv2_semisup.losses.masking import masked
from nnunetv2_semisup.losses.precision import full_precision, without_autocast


def local_joint(z1: Tensor, z2: Tensor, radius: Sequence[int], mask: Tensor | None = None) -> Tensor:
    """Un-normalised joint C_ij(d) = sum over b, v of z1_i(b, v + d) z2_j(b, v), at every displacement d."""
    with without_autocast(z1):
        z1, z2 = full_precision(z1), full_precision(z2)
        joint: Tensor = _LocalJoint.apply(masked(z1, mask), masked(z2, mask), tuple(radius))  # type: ignore[no-untyped-call]
        return joint


class _LocalJoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z1: Tensor, z2: Tensor, radius: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(z1, z2)
        ctx.radius = radius
        clusters = z1.shape[1]
        ones = [1] * len(radius)
        weight = z1.new_zeros(clusters, clusters, *(2 * r + 1 for r in radius))
        _, counts, _ = torch.ops.aten.convolution_backward(
            z2, z1, weight, None, ones, radius, ones, False, [0] * len(radius), 1, [False, True, False]
        )
        return counts.movedim((0, 1), (-1, -2)).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        z1, z2 = ctx.saved_tensors
        convolve = F.conv3d if len(ctx.radius) == 3 else F.conv2d
        axes = [2 + axis for axis in range(len(ctx.radius))]
        grad1 = convolve(z2, grads[0].movedim((-2, -1), (0, 1)).flip(axes), padding=ctx.radius)
        grad2 = convolve(z1, grads[0].movedim((-1, -2), (0, 1)), padding=ctx.radius)
        return grad1, grad2, None

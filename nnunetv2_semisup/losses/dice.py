"""Soft Dice loss against given maps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nnunetv2_semisup.losses.masking import masked
from nnunetv2_semisup.losses.precision import full_precision, without_autocast

_SMOOTH = 1e-5
"""As in nnU-Net: a class that neither map holds scores a Dice of 1."""


def soft_dice_loss(
    p: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """1 minus the soft Dice of every channel over batch and space, averaged over channels, in [0, 1].

    Milletari et al., V-Net, 3DV 2016, with the sums of nnU-Net: 2 sum(p t) / (sum(p) + sum(t)). Batch and space are
    summed together, as nnU-Net's 3d_fullres does, since a patch may lack a class. A softmax's background is for the
    caller to leave out.

    Args:
        p: probabilities [B, C, *S].
        target: of the same shape, probabilities or 0 and 1; no gradient is wanted through it.
        mask: [B, 1, *S] or [B, C, *S], bool or 0/1; voxels outside do not count. None: all count.
        reduce: sums a tensor over all processes, with gradient, so that the batch is that of all; None: one process.

    Returns:
        A scalar of at least float32. Without a valid voxel a zero that is attached to the graph.

    Raises:
        ValueError: p and target differ in shape, or the mask does not fit.

    Example:
        >>> import torch
        >>> p, target = torch.full((1, 1, 4), 0.5), torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
        >>> round(soft_dice_loss(p, target).item(), 4)
        0.5
    """
    if p.shape != target.shape:
        raise ValueError(f"p and target must have one shape, got {tuple(p.shape)} and {tuple(target.shape)}")
    with without_autocast(p):
        p, target = masked(full_precision(p), mask), masked(full_precision(target), mask)
        axes = [axis for axis in range(p.ndim) if axis != 1]
        sums = torch.stack([(p * target).sum(axes), p.sum(axes) + target.sum(axes)])
        if reduce is not None:
            sums = reduce(sums)
        return 1 - ((2 * sums[0] + _SMOOTH) / (sums[1] + _SMOOTH)).mean()

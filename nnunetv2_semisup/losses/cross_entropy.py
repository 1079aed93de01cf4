"""Cross-entropy against given maps, voxel by voxel weighted."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunetv2_semisup.losses.masking import masked, masked_mean
from nnunetv2_semisup.losses.precision import full_precision, without_autocast


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    regions: bool = False,
) -> Tensor:
    """Weighted cross-entropy -w sum_c t_c log p_c, in nats, averaged over all valid voxels.

    Sohn et al., FixMatch, NeurIPS 2020, equation 4, where the weight is 1 for confident and 0 for other voxels and the
    mean runs over both; Chen et al., CPS, CVPR 2021, equation 4, without weight.

    Args:
        logits: [B, C, *S] before softmax or sigmoid.
        target: [B, C, *S], probabilities or 0 and 1; no gradient is wanted through it.
        mask: [B, 1, *S], bool or 0/1; voxels outside do not count. None: all count.
        weight: [B, 1, *S], or with regions [B, C, *S], at least 0; None: 1.
        regions: False: one softmax over the C classes. True: C overlapping regions, each a sigmoid; the mean runs over
            regions as well.

    Returns:
        A scalar of at least float32. Without a valid voxel a zero that is attached to the graph.

    Raises:
        ValueError: logits and target differ in shape, or the mask does not fit.

    Example:
        >>> import torch
        >>> logits, target = torch.zeros(1, 2, 4), torch.tensor([[1.0, 0.0]]).T[None].expand(1, 2, 4)
        >>> round(cross_entropy(logits, target).item(), 4)
        0.6931
    """
    if logits.shape != target.shape:
        raise ValueError(f"logits and target must have one shape, got {tuple(logits.shape)} and {tuple(target.shape)}")
    with without_autocast(logits):
        logits, target = masked(full_precision(logits), mask), full_precision(target)
        if regions:
            values = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        else:
            values = -(target * torch.log_softmax(logits, dim=1)).sum(dim=1, keepdim=True)
        return masked_mean(values if weight is None else values * weight, mask)

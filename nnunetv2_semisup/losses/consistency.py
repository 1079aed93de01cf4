"""Consistency of probability maps."""

from __future__ import annotations

from torch import Tensor

from nnunetv2_semisup.losses.masking import masked, masked_mean
from nnunetv2_semisup.losses.precision import full_precision, without_autocast


def mse_consistency(p: Tensor, q: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of two probability maps over all valid elements, dimensionless, in [0, 1].

    Peng et al., MELBA 2021:009, output consistency, as released: the mean runs over batch, channels and space, so it
    is C times smaller than the squared distance of the probability vectors. Gradient flows into both maps: detach
    the target.

    Args:
        p: probabilities [B, C, *S], softmax or sigmoid.
        q: probabilities of the same shape, aligned with p.
        mask: [B, 1, *S] or [B, C, *S], bool or 0/1; what is outside does not count. None: all count.

    Returns:
        A scalar of at least float32. Without a valid voxel a zero that is attached to the graph.

    Raises:
        ValueError: p and q differ in shape, or the mask does not fit them.

    Departures: padding is masked; the released code has no mask.

    Example:
        >>> import torch
        >>> p, q = torch.tensor([[[0.5], [0.5]]]), torch.tensor([[[0.9], [0.1]]])
        >>> round(mse_consistency(p, q).item(), 4)
        0.16
    """
    if p.shape != q.shape:
        raise ValueError(f"p and q must have one shape, got {tuple(p.shape)} and {tuple(q.shape)}")
    with without_autocast(p):
        difference = masked(full_precision(p) - full_precision(q), mask)
        return masked_mean(difference.square(), mask)

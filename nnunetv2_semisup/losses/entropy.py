"""Entropy of predictions, and its minimisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunetv2_semisup.losses.masking import masked, masked_mean
from nnunetv2_semisup.losses.precision import full_precision, without_autocast


def shannon_entropy(p: Tensor, dim: int = 1, eps: float = 1e-10) -> Tensor:
    """Shannon entropy -sum p log p along one dimension, in nats, in [0, log C].

    Args:
        p: probabilities that sum to 1 along `dim`, of any shape.
        dim: the dimension of the classes; it is removed.
        eps: floor inside the logarithm. It bounds the gradient at p = 0 and leaves the value there as it is.

    Returns:
        Entropies of at least float32, of p's shape without `dim`.

    Example:
        >>> import torch
        >>> round(shannon_entropy(torch.tensor([[0.5, 0.5]])).item(), 4)
        0.6931
    """
    with without_autocast(p):
        p = full_precision(p)
        return -(p * p.clamp_min(eps).log()).sum(dim)


def entropy_loss(logits: Tensor, mask: Tensor | None = None, regions: bool = False) -> Tensor:
    """Mean entropy of a prediction as a share of its maximum, in [0, 1].

    Grandvalet & Bengio, NeurIPS 2004: the empirical conditional entropy H_emp(Y|X) of the labels given unlabelled
    inputs, here voxels. To be minimised.

    Args:
        logits: [B, C, *S] before softmax or sigmoid.
        mask: [B, 1, *S], bool or 0/1; voxels outside do not count. None: all count.
        regions: False: one softmax over the C classes, entropies divided by log C. True: C overlapping regions, each
            a sigmoid, binary entropies divided by log 2 and averaged over the regions.

    Returns:
        A scalar of at least float32. Without a valid voxel a zero that is attached to the graph. Computed from
        log-probabilities, so value and gradient are finite for any finite logits.

    Raises:
        ValueError: one class under softmax, whose entropy is always 0; a mask that does not fit.

    Departures: the paper works in nats and has no regions; divided by its maximum, one weight fits any number of
    classes.

    Example:
        >>> import torch
        >>> entropy_loss(torch.zeros(1, 4, 2, 2)).item()
        1.0
    """
    classes = logits.shape[1]
    if not regions and classes < 2:
        raise ValueError(f"a softmax entropy needs at least 2 classes, got {classes}")
    with without_autocast(logits):
        logits = masked(full_precision(logits), mask)
        if regions:
            entropies = -(logits.sigmoid() * F.logsigmoid(logits) + (-logits).sigmoid() * F.logsigmoid(-logits))
            return masked_mean(entropies, mask) / math.log(2)
        log_p = torch.log_softmax(logits, dim=1)
        entropies = -(log_p.exp() * log_p).sum(dim=1, keepdim=True)
        return masked_mean(entropies, mask) / math.log(classes)

"""InfoNCE: an embedding shall be more like its partner than like any other."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunetv2_semisup.losses.masking import masked, masked_mean
from nnunetv2_semisup.losses.precision import full_precision, without_autocast

Norm = Literal["L2", "L1"]
_EPS = 1e-6
"""Embeddings shorter than this are not scaled up to length 1."""


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    apart: Tensor,
    temperature: float,
    norm: Norm = "L2",
    valid: Tensor | None = None,
) -> Tensor:
    """Mean over anchors of -log of e^(a p / t) / (e^(a p / t) + sum_m e^(a n_m / t)), in nats.

    Zhao et al., ISBI 2022: anchors and negatives are cells of an image, positives the same cells seen by themselves.
    The released code (after PatchNCE, Park et al., ECCV 2020) takes the other positives as negatives, all of unit L1
    norm. Embeddings that are all alike give log(1 + M); the least is log(1 + M exp(-(1 + 1 / M) / t)) under L2.

    Args:
        anchors: [B, N, D].
        positives: [B, N, D], the anchors' partners. No gradient is held back: detach what shall not learn.
        negatives: [B, M, D], of the same images.
        apart: [N, M] or [B, N, M], bool, True where a negative may stand against an anchor: not its partner, and
            nothing that shows the same.
        temperature: t, above 0.
        norm: to which embeddings are scaled, "L2" (cosines) or "L1".
        valid: [B, N], bool, False for anchors (or partners) that do not count. None: all count.

    Returns:
        A scalar of at least float32. Without a valid anchor a zero that is attached to the graph.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> import torch
        >>> x = torch.eye(4)[None]
        >>> round(info_nce(x, x, x, ~torch.eye(4, dtype=torch.bool), temperature=1.0).item(), 4)
        0.7437
    """
    if anchors.shape != positives.shape:
        raise ValueError(f"every anchor needs a positive, got {tuple(anchors.shape)} and {tuple(positives.shape)}")
    shape = (*anchors.shape[:2], negatives.shape[1])
    if apart.shape not in (shape, shape[1:]) or negatives.shape[::2] != anchors.shape[::2]:
        raise ValueError(
            f"anchors [B, N, D] = {tuple(anchors.shape)} and negatives [B, M, D] = {tuple(negatives.shape)} need apart "
            f"[B, N, M] or [N, M], got {tuple(apart.shape)}"
        )
    with without_autocast(anchors):
        counted = None if valid is None else valid[:, None]
        q, k = (_scaled(x, norm, counted) for x in (anchors, positives))
        apart = apart.expand(shape)
        # What stands against no anchor may be anything.
        others = _scaled(negatives, norm, apart.any(dim=1)[:, None])
        alike = (q * k).sum(dim=-1, keepdim=True) / temperature
        different = (q @ others.transpose(1, 2) / temperature).masked_fill(~apart, -torch.inf)
        losses = torch.cat([alike, different], dim=-1).logsumexp(dim=-1) - alike[..., 0]
        return masked_mean(losses[:, None], counted)


def _scaled(x: Tensor, norm: Norm, counted: Tensor | None) -> Tensor:
    """Embeddings [B, N, D] of unit norm, 0 where they do not count, which [B, 1, N] says."""
    inside = masked(full_precision(x).transpose(1, 2), counted).transpose(1, 2)
    return F.normalize(inside, p=2 if norm == "L2" else 1, dim=-1, eps=_EPS)

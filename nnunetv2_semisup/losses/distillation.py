"""Distillation: what one prediction has to learn from another, voxel by voxel."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from nnunetv2_semisup.losses.masking import masked, masked_mean
from nnunetv2_semisup.losses.precision import full_precision, without_autocast


def kl_divergence(p_logits: Tensor, q_logits: Tensor, mask: Tensor | None = None, regions: bool = False) -> Tensor:
    """Kullback-Leibler divergence KL(p || q) of two predictions in nats, averaged over all valid voxels.

    Liu et al., Medical Image Analysis 83 (2023) 102670, the distillation term: p is the teacher, q the student. The
    other direction is the same call with the arguments exchanged. Gradient flows into both: detach what shall not move.

    Args:
        p_logits: [B, C, *S] before softmax or sigmoid.
        q_logits: of the same shape.
        mask: [B, 1, *S], bool or 0/1; voxels outside do not count. None: all count.
        regions: False: one softmax over the C classes. True: C overlapping regions, each a sigmoid; the mean of the
            binary divergences runs over regions as well, so that it does not grow with their number.

    Returns:
        A scalar of at least float32, at least 0 but for rounding, and 0 for equal predictions. Without a valid voxel a
        zero that is attached to the graph. Computed from log-probabilities: finite for any finite logits.

    Raises:
        ValueError: p and q differ in shape, or the mask does not fit.

    Departures: a mean, where the paper writes a sum over pixels; the paper has no regions and no mask.

    Example:
        >>> import torch
        >>> p, q = torch.tensor([[[3.0], [1.0]]]).log(), torch.zeros(1, 2, 1)
        >>> round(kl_divergence(p, q).item(), 4)
        0.1308
    """
    _refuse_shapes(p_logits, q_logits)
    with without_autocast(p_logits):
        p_logits, q_logits = (masked(full_precision(logits), mask) for logits in (p_logits, q_logits))
        if regions:
            inside = p_logits.sigmoid() * (F.logsigmoid(p_logits) - F.logsigmoid(q_logits))
            outside = (-p_logits).sigmoid() * (F.logsigmoid(-p_logits) - F.logsigmoid(-q_logits))
            return masked_mean(inside + outside, mask)
        log_p, log_q = p_logits.log_softmax(dim=1), q_logits.log_softmax(dim=1)
        return masked_mean((log_p.exp() * (log_p - log_q)).sum(dim=1, keepdim=True), mask)


def double_softmax_divergence(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None, temperature: float = 2.0
) -> Tensor:
    """The distillation term as the authors released it: a divergence of softmaxes of probabilities.

    Dolz et al., "Teach me to segment with mixed supervision", IPMI 2021, training script: with q = softmax(p / T) of
    the probabilities p, the mean over batch, classes and voxels of q_s (log q_s - log q_t), times T^2 / 2. The softmax
    of a softmax is so flat that the value is close to |p_s - p_t|^2 / (4 C^2), whatever the temperature and in either
    direction. For comparison with the paper's code; `kl_divergence` is what the paper writes.

    Args:
        student_logits: [B, C, *S] before softmax.
        teacher_logits: of the same shape. The script lets gradient flow into both.
        mask: [B, 1, *S], bool or 0/1; voxels outside do not count. None: all count.
        temperature: T, above 0.

    Returns:
        A scalar of at least float32, at most 0.1225 for two classes and T = 2. Without a valid voxel a zero that is
        attached to the graph.

    Raises:
        ValueError: the predictions differ in shape, or the mask does not fit.

    Departures: the script has no mask.

    Example:
        >>> import torch
        >>> yes, no = torch.tensor([[[99.0], [0.0]]]), torch.tensor([[[0.0], [99.0]]])
        >>> round(double_softmax_divergence(yes, no).item(), 4)
        0.1225
    """
    _refuse_shapes(student_logits, teacher_logits)
    with without_autocast(student_logits):
        student, teacher = (
            (masked(full_precision(logits), mask).softmax(dim=1) / temperature).log_softmax(dim=1)
            for logits in (student_logits, teacher_logits)
        )
        return masked_mean(student.exp() * (student - teacher), mask) * temperature**2 / 2


def _refuse_shapes(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"both predictions must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}")

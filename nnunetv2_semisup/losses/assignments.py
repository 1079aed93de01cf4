"""What the cluster losses read of two views' assignments: their joint, and the entropy at every voxel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nnunetv2_semisup.losses.masking import check_mask
from nnunetv2_semisup.losses.precision import full_precision, without_autocast


def joint_and_entropies(logits1: Tensor, logits2: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """`assignment_joint` and `shannon_entropy` of the softmax of two maps of logits, in one pass over either.

    The same numbers in less time and memory: nothing but the log-probabilities is kept. It has no second derivative.

    Args:
        logits1: [B, K, *S] before the softmax.
        logits2: of the same shape, aligned voxel by voxel.
        mask: [B, 1, *S], bool; voxels outside do not count in the joint. None: all count. Logits are finite there.

    Returns:
        The un-normalised joint [K, K] in voxels, and two entropies [B, 1, *S] in nats, of at least float32.

    Raises:
        ValueError: the logits are not of one shape [B, K, *S], or the mask does not fit them.

    Example:
        >>> import torch
        >>> joint, entropy, _ = joint_and_entropies(torch.zeros(1, 2, 8), torch.zeros(1, 2, 8))
        >>> joint.tolist(), round(entropy[0, 0, 0].item(), 4)
        ([[2.0, 2.0], [2.0, 2.0]], 0.6931)
    """
    if logits1.ndim < 3 or logits1.shape != logits2.shape:
        raise ValueError(
            f"both logits must have one shape [B, K, *S], got {tuple(logits1.shape)} and {tuple(logits2.shape)}"
        )
    if mask is not None:
        check_mask(logits1, mask)
        mask = mask.flatten(2)
    with without_autocast(logits1):
        first, second = (full_precision(logits).flatten(2) for logits in (logits1, logits2))
        joint, *entropies = _JointAndEntropies.apply(first, second, mask)  # type: ignore[no-untyped-call]
        e1, e2 = (entropy.unflatten(2, logits1.shape[2:]) for entropy in entropies)
        return joint, e1, e2


class _JointAndEntropies(torch.autograd.Function):
    """With z the probabilities and G the gradient of the joint, that of the logits is z (u - sum_k z_k u_k),

    where u = G z' - g log z holds what comes from the joint, at valid voxels, and what comes from the entropy.
    """

    @staticmethod
    def forward(ctx: Any, logits1: Tensor, logits2: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        logs = [logits.log_softmax(dim=1) for logits in (logits1, logits2)]
        ctx.save_for_backward(*logs, mask)
        z1, z2 = (log.exp() for log in logs)
        entropies = [-(z * log).sum(dim=1, keepdim=True) for z, log in zip((z1, z2), logs, strict=True)]
        joint = ((z1 if mask is None else z1.mul_(mask)) @ z2.mT).sum(0)
        return joint, entropies[0], entropies[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, joint: Tensor, entropy1: Tensor, entropy2: Tensor) -> tuple[Tensor, Tensor, None]:
        log1, log2, mask = ctx.saved_tensors
        z1, z2 = log1.exp(), log2.exp()
        u1, u2 = joint @ z2, joint.mT @ z1
        if mask is not None:
            u1, u2 = u1.mul_(mask), u2.mul_(mask)
        gradients = []
        for z, u, log, entropy in ((z1, u1, log1, entropy1), (z2, u2, log2, entropy2)):
            z_u = z.mul(u.addcmul_(log, entropy, value=-1))
            gradients.append(z_u.addcmul_(z, z_u.sum(dim=1, keepdim=True), value=-1))
        return gradients[0], gradients[1], None

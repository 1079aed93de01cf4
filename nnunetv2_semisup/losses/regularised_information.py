"""Mutual information whose joint is drawn towards balanced clusters that agree between the views."""

from __future__ import annotations

from torch import Tensor, where

from nnunetv2_semisup.losses.masking import check_mask, masked
from nnunetv2_semisup.losses.mutual_information import Reduce, joint_probabilities
from nnunetv2_semisup.losses.precision import full_precision, without_autocast


def assignment_joint(z1: Tensor, z2: Tensor, mask: Tensor | None = None) -> Tensor:
    """Un-normalised joint of two aligned maps, C_ij = sum over b, v of z1_i(b, v) z2_j(b, v), in voxels.

    Peng et al., MedIA 2024 (10.1016/j.media.2024.103150): the joint of the decoder term, without displacements.

    Args:
        z1: assignments [B, K, *S], on the simplex along dimension 1.
        z2: assignments of the same shape, aligned voxel by voxel.
        mask: [B, 1, *S], bool or 0/1; voxels outside do not count. None: all count.

    Returns:
        [K, K] of at least float32; its sum is the number of valid voxels.

    Raises:
        ValueError: z1 and z2 are not of one shape [B, K, *S], or the mask does not fit them.

    Example:
        >>> import torch
        >>> z = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
        >>> assignment_joint(z, z, mask=torch.tensor([[[True, False, True]]])).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    if z1.ndim < 3 or z1.shape != z2.shape:
        raise ValueError(f"z1 and z2 must have one shape [B, K, *S], got {tuple(z1.shape)} and {tuple(z2.shape)}")
    if mask is not None:
        check_mask(z1, mask)
    with without_autocast(z1):
        first, second = (masked(full_precision(z), mask).flatten(2) for z in (z1, z2))
        return (first @ second.mT).sum(0)


def regularised_mi_loss(
    z1: Tensor,
    z2: Tensor,
    alpha: float,
    lam: float = 1.0,
    mask: Tensor | None = None,
    eps: float = 1e-5,
    reduce: Reduce | None = None,
) -> Tensor:
    """Regularised mutual information of two aligned maps, in nats, to be minimised.

    Peng et al., MedIA 2024 (10.1016/j.media.2024.103150), as released. With P the symmetrised joint distribution, p
    and q its margins, and Q = alpha I/K + (1 - alpha) P with its gradient:

        - sum over i, j of Q_ij log(P_ij + eps)  +  lam sum over i, j of P_ij (log(p_i + eps) + log(q_j + eps))

    which is alpha CE(I/K, P) + (1 - alpha) H(P) - lam (H(p) + H(q)). alpha = 0 and lam = 1 give the negative MI (in
    [-log K, 0], see `mutual_information`), whatever the clusters are called in either view. alpha = 1 asks for P =
    I/K: the same name in both views, and equal shares. There every alpha gives (1 - 2 lam) log K.

    Args:
        z1: assignments [B, K, *S], on the simplex along dimension 1.
        z2: assignments of the same shape, aligned voxel by voxel.
        alpha: share of the target I/K, in [0, 1].
        lam: weight of the marginal entropies.
        mask: [B, 1, *S], bool or 0/1; voxels outside do not count. None: all count.
        eps: addend (not a floor) inside the logarithms, as released: it moves values by about eps, caps -log P_kk at
            11.5, and with that the gradient of an unused cluster. 0 needs a P without zeros.
        reduce: sums the joint over processes.

    Returns:
        A scalar of at least float32. Without a valid voxel a zero that is attached to the graph.

    Raises:
        ValueError: alpha is outside [0, 1]; shapes or mask do not fit together.

    Departures: masks, three spatial axes, and float32, where the released code holds P in half precision.

    Example:
        >>> import torch
        >>> z = torch.eye(2)[None]  # two voxels, one in each cluster
        >>> [round(regularised_mi_loss(z, other, alpha=0.5).item(), 2) for other in (z, z.flip(1))]
        [-0.69, 4.72]
    """
    joint = assignment_joint(z1, z2, mask)
    return regularised_mi_of_joint(reduce(joint) if reduce else joint, alpha, lam, eps)


def regularised_mi_of_joint(joint: Tensor, alpha: float, lam: float = 1.0, eps: float = 1e-5) -> Tensor:
    """`regularised_mi_loss` of a joint that is there already.

    Args:
        joint: counts or probabilities [K, K], summed over all processes.
        alpha: see `regularised_mi_loss`, as lam and eps.
        lam: weight of the marginal entropies.
        eps: addend inside the logarithms.

    Raises:
        ValueError: alpha is outside [0, 1].

    Example:
        >>> import torch
        >>> round(regularised_mi_of_joint(torch.eye(4), alpha=0.5).item(), 2)
        -1.39
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    with without_autocast(joint):
        p = joint_probabilities(joint)
        target = (1 - alpha) * p
        target.diagonal().add_(alpha / len(p))
        log_margins = (p.sum(1, keepdim=True) + eps).log() + (p.sum(0, keepdim=True) + eps).log()
        loss = (lam * p * log_margins - target * (p + eps).log()).sum()
        return where(p.detach().sum() > 0, loss, 0)

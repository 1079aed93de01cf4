"""Mutual information between the cluster assignments of two views."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nnunetv2_semisup.losses.entropy import shannon_entropy
from nnunetv2_semisup.losses.local_joint import local_joint
from nnunetv2_semisup.losses.masking import masked
from nnunetv2_semisup.losses.precision import full_precision, without_autocast

__all__ = [
    "global_joint",
    "global_mi_loss",
    "joint_probabilities",
    "local_joint",
    "local_mi_loss",
    "marginal_entropy",
    "mutual_information",
]

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes, with gradient, so that N processes equal one that sees all samples."""


def global_joint(z1: Tensor, z2: Tensor) -> Tensor:
    """Un-normalised joint of paired assignments, C_ij = sum over n of z1_i(n) z2_j(n), in pairs.

    Peng et al., MELBA 2021:009, global term.

    Args:
        z1: assignments [N, K], rows on the simplex.
        z2: assignments [N, K] of the other view; row n belongs to row n of z1.

    Returns:
        [K, K] of at least float32; its sum is N.

    Raises:
        ValueError: z1 and z2 are not of one shape [N, K].

    Example:
        >>> import torch
        >>> global_joint(torch.eye(2), torch.eye(2)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    if z1.ndim != 2 or z1.shape != z2.shape:
        raise ValueError(f"z1 and z2 must have one shape [N, K], got {tuple(z1.shape)} and {tuple(z2.shape)}")
    with without_autocast(z1):
        return full_precision(z1).T @ full_precision(z2)


def joint_probabilities(joint: Tensor, symmetrise: bool = True) -> Tensor:
    """Joint distribution P of counts: each [K, K] divided by its sum, and (P + P^T) / 2.

    Args:
        joint: counts or probabilities [..., K, K].
        symmetrise: as the authors do, who index both views' clusters alike. Each [K, K] with its own transpose.

    Returns:
        [..., K, K] of at least float32, sums 1; all 0 where a joint has no pair.

    Example:
        >>> import torch
        >>> joint_probabilities(torch.tensor([[2.0, 2.0], [0.0, 4.0]])).tolist()
        [[0.25, 0.125], [0.125, 0.5]]
    """
    joint = full_precision(joint)
    total = joint.sum((-2, -1), keepdim=True)
    p = joint / torch.where(total > 0, total, 1)
    return (p + p.mT) / 2 if symmetrise else p


def mutual_information(joint: Tensor, eps: float = 1e-10, lam: float = 1.0, symmetrise: bool = True) -> Tensor:
    """Mutual information of joints, in nats, in [0, log K]; 0 for a joint without a single pair.

    With P the joint divided by its sum and p, q its margins: sum over i, j of P_ij (log P_ij - lam log p_i -
    lam log q_j), which is lam H(p) + lam H(q) - H(P). Peng et al., MELBA 2021:009 (there as IIC, Ji et al., ICCV
    2019, equation 3).

    Args:
        joint: counts or probabilities [..., K, K].
        eps: floor inside the logarithms. It bounds the gradient at P_ij = 0 and leaves the value there as it is.
        lam: weight of the marginal entropies; above 1 it rewards balanced clusters and the value is no longer an MI.
        symmetrise: see `joint_probabilities`. Afterwards the value is no longer 0 for independent views whose
            clusters are used in different shares.

    Returns:
        [...] of at least float32.

    Departures: a floor inside the logarithms, not an addend; no subtraction of the joint's minimum, which reports
    MI between independent maps.

    Example:
        >>> import torch
        >>> round(mutual_information(torch.eye(4)).item(), 4)
        1.3863
    """
    with without_autocast(joint):
        p = joint_probabilities(joint, symmetrise)
        rows = p.sum(-1, keepdim=True).clamp_min(eps).log()
        columns = p.sum(-2, keepdim=True).clamp_min(eps).log()
        return (p * (p.clamp_min(eps).log() - lam * rows - lam * columns)).sum((-2, -1))


def global_mi_loss(
    z1: Tensor, z2: Tensor, lam: float = 1.0, symmetrise: bool = True, reduce: Reduce | None = None
) -> Tensor:
    """Negative mutual information of paired assignments, in nats, in [-log K, 0].

    Peng et al., MELBA 2021:009, global term. N pairs allow at most log min(K, N), or log min(K, 2N) symmetrised.

    Args:
        z1: assignments [N, K], rows on the simplex.
        z2: assignments [N, K] of the other view; row n belongs to row n of z1.
        lam: see `mutual_information`.
        symmetrise: see `mutual_information`.
        reduce: sums the joint over processes.

    Returns:
        A scalar of at least float32. Without a pair a zero that is attached to the graph.

    Raises:
        ValueError: z1 and z2 are not of one shape [N, K].

    Example:
        >>> import torch
        >>> round(global_mi_loss(torch.eye(3), torch.eye(3)).item(), 4)
        -1.0986
    """
    joint = global_joint(z1, z2)
    return -mutual_information(reduce(joint) if reduce else joint, lam=lam, symmetrise=symmetrise)


def local_mi_loss(
    z1: Tensor,
    z2: Tensor,
    radius: Sequence[int],
    mask: Tensor | None = None,
    lam: float = 1.0,
    symmetrise: bool = True,
    reduce: Reduce | None = None,
) -> Tensor:
    """Negative mutual information of aligned maps, averaged over displacements, in nats, in [-log K, 0].

    Peng et al., MELBA 2021:009, local term: one joint per displacement within the window, each normalised by its own
    number of pairs; the mean of their MI.

    Args:
        z1: assignments [B, K, *S], on the simplex along dimension 1.
        z2: assignments of the same shape, aligned voxel by voxel.
        radius: largest displacement per axis, in voxels; 0 leaves an axis out.
        mask: [B, 1, *S], bool or 0/1; only pairs of valid voxels count. None: all count.
        lam: see `mutual_information`.
        symmetrise: see `mutual_information`; every displacement's joint with its own transpose.
        reduce: sums the joint over processes.

    Returns:
        A scalar of at least float32. Displacements without a pair are left out of the mean; without any pair at all
        a zero that is attached to the graph.

    Raises:
        ValueError: shapes, radius or mask do not fit together.

    Departures: no subtraction of the joint's minimum over all displacements (it reports MI between independent
    maps); windows per axis; masks; three spatial axes.

    Example:
        >>> import torch
        >>> z = torch.eye(2).T.reshape(1, 2, 2).repeat_interleave(4, dim=2)[..., None, :]
        >>> round(local_mi_loss(z, z, radius=(0, 0)).item(), 4)
        -0.6931
    """
    joint = local_joint(z1, z2, radius, mask)
    joint = reduce(joint) if reduce else joint
    # Sums of a displacement without pairs are rounding errors at most, those with pairs at least 1.
    paired = joint.detach().sum((-2, -1)) > 0.5
    information = mutual_information(joint, lam=lam, symmetrise=symmetrise)
    return -torch.where(paired, information, 0).sum() / paired.sum().clamp_min(1)


def marginal_entropy(z: Tensor, mask: Tensor | None = None) -> Tensor:
    """Entropy of the mean assignment, in nats, in [0, log K]: how evenly the clusters are used; 0 on collapse.

    Args:
        z: assignments [N, K] or [B, K, *S], on the simplex along dimension 1.
        mask: [B, 1, *S], bool or 0/1; voxels outside do not count. None: all count.

    Returns:
        A scalar of at least float32; 0 without a valid voxel.

    Raises:
        ValueError: the mask does not fit z.

    Example:
        >>> import torch
        >>> round(marginal_entropy(torch.eye(2)).item(), 4)
        0.6931
    """
    with without_autocast(z):
        mass = masked(full_precision(z), mask).transpose(0, 1).flatten(1).sum(1)
        total = mass.sum()
        return shannon_entropy(mass / torch.where(total > 0, total, 1), dim=0)

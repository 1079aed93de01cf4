"""NumPy references, written from the formulas of the paper and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor


def displacements(radius: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Index into the window, and displacement."""
    for index in product(*(range(2 * r + 1) for r in radius)):
        yield index, tuple(i - r for i, r in zip(index, radius, strict=True))


def pairs(shape: Sequence[int], displacement: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Voxels v + d and v that both lie inside."""
    for here in product(*map(range, shape)):
        there = tuple(v + d for v, d in zip(here, displacement, strict=True))
        if all(0 <= v < size for v, size in zip(there, shape, strict=True)):
            yield there, here


def brute_force_joint(z1: Tensor, z2: Tensor, radius: Sequence[int], mask: Tensor | None = None) -> np.ndarray:
    """C_ij(d) = sum over b, v of z1_i(b, v + d) z2_j(b, v), over pairs of valid voxels."""
    x, y = z1.detach().numpy(), z2.detach().numpy()
    valid = np.ones((len(x), 1, *x.shape[2:])) if mask is None else mask.numpy()
    joint = np.zeros((*(2 * r + 1 for r in radius), x.shape[1], x.shape[1]))
    for index, displacement in displacements(radius):
        for there, here in pairs(x.shape[2:], displacement):
            for b in range(len(x)):
                if valid[(b, 0, *there)] and valid[(b, 0, *here)]:
                    joint[index] += np.outer(x[(b, slice(None), *there)], y[(b, slice(None), *here)])
    return joint


def mutual_information_of(joint: np.ndarray, lam: float = 1.0, symmetrise: bool = True) -> float:
    """lam H(p) + lam H(q) - H(P) of one joint, in nats."""
    p = joint / joint.sum()
    if symmetrise:
        p = (p + p.T) / 2
    return lam * entropy_of(p.sum(1)) + lam * entropy_of(p.sum(0)) - entropy_of(p)


def entropy_of(p: np.ndarray) -> float:
    """-sum p log p with 0 log 0 = 0, in nats."""
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def maps(*shape: int, seed: int = 0, sharpness: float = 2.0) -> Tensor:
    """Random assignments [B, K, *S] on the simplex, float64."""
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(shape, generator=generator, dtype=torch.float64)).softmax(1)


def one_hot(labels: Tensor, clusters: int) -> Tensor:
    """Exact assignments [B, K, *S] of labels [B, *S], float64."""
    return torch.nn.functional.one_hot(labels, clusters).movedim(-1, 1).double()


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Uniform in [0, 1), float64."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def voxels(shape: Sequence[int]) -> product:
    """Every index of an array."""
    return product(*map(range, shape))

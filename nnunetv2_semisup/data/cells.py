"""Cells of a patch: parts of it that a network can be shown by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from nnunetv2.configuration import ANISO_THRESHOLD
from torch import Tensor


@dataclass(frozen=True)
class Cell:
    """A box in a patch.

    Attributes:
        start: first voxel per axis.
        edge: voxels per axis.
    """

    start: tuple[int, ...]
    edge: tuple[int, ...]

    def __call__(self, maps: Tensor, stride: Sequence[int] | None = None) -> Tensor:
        """Its crop of maps [B, C, *S] that cover the patch, contiguous.

        Args:
            maps: at the resolution of the patch, or coarser.
            stride: voxels of the patch per element of the maps and axis, of which start and edge are multiples;
                None: 1.
        """
        steps = stride or (1,) * len(self.edge)
        box = tuple(
            slice(start // step, (start + edge) // step)
            for start, edge, step in zip(self.start, self.edge, steps, strict=True)
        )
        return maps[(slice(None),) * (maps.ndim - len(box)) + box].contiguous()

    def without_margin(self, margin: int, patch_size: Sequence[int]) -> Cell:
        """The part of it that is at least so many voxels away from where it ends within the patch, as a box in it."""
        start = [margin if first > 0 else 0 for first in self.start]
        end = [
            edge - margin if first + edge < size else edge
            for first, edge, size in zip(self.start, self.edge, patch_size, strict=True)
        ]
        return Cell(tuple(start), tuple(b - a for a, b in zip(start, end, strict=True)))

    def shares_voxels(self, other: Cell) -> bool:
        """Whether a voxel lies in both."""
        return all(
            max(a, b) < min(a + m, b + n)
            for a, m, b, n in zip(self.start, self.edge, other.start, other.edge, strict=True)
        )


def cells_per_axis(patch_size: Sequence[int]) -> list[int]:
    """Two along every axis, but one where a patch is as flat as in nnU-Net's anisotropic plans.

    >>> cells_per_axis((16, 256, 256))
    [1, 2, 2]
    """
    return [1 if max(patch_size) > ANISO_THRESHOLD * size else 2 for size in patch_size]


def place_cells(patch_size: Sequence[int], stride: Sequence[int], per_axis: Sequence[int]) -> tuple[Cell, ...]:
    """Cells that together cover a patch, row by row, and that a network of this stride takes as its input.

    Along an axis with two cells, their edge is the smallest multiple of the stride that is at least half of the patch,
    and they lie at both ends; where half of the patch is no such multiple they overlap. Where the edge is the whole
    patch there is one.

    Args:
        patch_size: in voxels, a multiple of the stride.
        stride: voxels per voxel of the network's bottleneck.
        per_axis: 1 or 2 for each axis.

    >>> [cell.start for cell in place_cells((40, 24), (8, 8), (2, 1))]
    [(0, 0), (16, 0)]
    """
    axes = []
    for size, step, count in zip(patch_size, stride, per_axis, strict=True):
        edge = -(-size // (2 * step)) * step if count == 2 else size
        axes.append([(start, edge) for start in sorted({0, size - edge})])
    return tuple(
        Cell(tuple(start for start, _ in corner), tuple(edge for _, edge in corner)) for corner in product(*axes)
    )

"""The exact joint of cluster assignments at every displacement within a window, by stacked shifts.

A displacement d = (dz, dy, dx) is split between the two maps. With X+dy the map X shifted along the rows, Y-dx the map
Y shifted along the columns, and zeros outside,

    C(d) = sum over v of X(v + dz + dy) Y(v - dx)^T.

So all displacements of one dz come from one matrix product of the stack of the T = 2 r + 1 shifts of X with that of
Y: [K T, voxels] x [voxels, K T]. Products of this shape run near the speed of the hardware, and copying 2 T maps
costs little beside them (unlike the T^3 of an unfolded map). The gradients have the same form. All of it runs tile
by tile, so that the stacks exist only for a few planes at a time.

Measured against convolution, its weight gradient, and shifted slices in docs/explanation/local-mi.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunetv2_semisup.losses.masking import check_mask
from nnunetv2_semisup.losses.precision import full_precision, without_autocast


def local_joint(z1: Tensor, z2: Tensor, radius: Sequence[int], mask: Tensor | None = None) -> Tensor:
    """Joint of two maps at every displacement d: C_ij(d) = sum over b, v of z1_i(b, v + d) z2_j(b, v), in pairs.

    Peng et al., MELBA 2021:009, local term, before normalisation. Pairs that reach over the border do not exist.

    Args:
        z1: assignments [B, K, *S] with 1 to 3 spatial axes; its voxel is the displaced one.
        z2: assignments of the same shape.
        radius: largest displacement per axis, in voxels; 0 leaves an axis out.
        mask: [B, 1, *S], bool or 0/1; only pairs of two valid voxels count. None: all count.

    Returns:
        [*T, K, K] of at least float32, T = 2 radius + 1, displacement 0 in the middle. On the simplex, C(d) sums to
        the number of pairs at d. Differentiable once, with respect to both maps.

    Raises:
        ValueError: shapes, radius or mask do not fit together.

    Departures: no subtraction of the minimum over all displacements (see docs/explanation/local-mi.md).

    Under torch.compile this is one operator, which is not traced into; no graph break.

    Example:
        >>> import torch
        >>> left = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]])
        >>> local_joint(left, left, radius=[1])[2].tolist()  # every voxel with its left neighbour: 1 and 0, 1 and 1
        [[0.0, 0.0], [1.0, 1.0]]
    """
    axes = z1.ndim - 2
    if z1.shape != z2.shape or not 1 <= axes <= 3:
        raise ValueError(f"z1 and z2 must have one shape [B, K, *S], got {tuple(z1.shape)} and {tuple(z2.shape)}")
    if len(radius) != axes or min(radius) < 0:
        raise ValueError(f"the radius needs {axes} numbers of at least 0, one per spatial axis, got {list(radius)}")
    if mask is not None:
        check_mask(z1, mask)
        mask = _volume(mask.bool())
    missing = (0,) * (3 - axes)
    counts: Tensor = _joint(_volume(full_precision(z1)), _volume(full_precision(z2)), mask, [*missing, *radius])
    return counts[missing]


def _volume(x: Tensor) -> Tensor:
    """[B, K, *S] with leading spatial axes of length 1 up to three."""
    return x[(slice(None), slice(None)) + (None,) * (5 - x.ndim)]


@torch.library.custom_op(
    "nnunetv2_semisup::local_joint",
    mutates_args=(),
    schema="(Tensor z1, Tensor z2, Tensor? mask, int[] radius) -> Tensor",
)
def _joint(z1: Tensor, z2: Tensor, mask: Tensor | None, radius: Sequence[int]) -> Tensor:
    clusters = z1.shape[1]
    rz, ry, rx = radius
    tz, ty, tx = (2 * r + 1 for r in radius)
    tiles = list(_tiles(z1, ty, rz))
    # Items are summed at the very end: fewer passes over memory, and less rounding in long sums.
    products = z1.new_zeros(tz, max((tile.items for tile in tiles), default=0), clusters * ty, clusters * tx)
    with without_autocast(z1):
        for tile in tiles:
            first = tile.row_shifts(z1, mask, rz, ry)
            second = tile.column_shifts(z2, mask, rx).mT
            for product, shifted in zip(products, tile.plane_shifts(first, rz), strict=True):
                product[: tile.items].baddbmm_(shifted, second)
    # Entry t of the columns' shifts is Y(v + t - rx): displacement dx = rx - t.
    return products.sum(1).view(tz, clusters, ty, clusters, tx).permute(0, 2, 4, 1, 3).flip(2).contiguous()


@torch.library.custom_op(
    "nnunetv2_semisup::local_joint_gradient",
    mutates_args=(),
    schema="(Tensor z1, Tensor grad, Tensor? mask, int[] radius) -> Tensor",
)
def _gradient_second(z1: Tensor, grad: Tensor, mask: Tensor | None, radius: Sequence[int]) -> Tensor:
    """Gradient of `_joint` with respect to z2: sum over d, i of grad_ij(d) z1_i(v + d)."""
    clusters = z1.shape[1]
    rz, ry, rx = radius
    tz, ty, tx = (2 * r + 1 for r in radius)
    weights = grad.flip(2).permute(0, 4, 2, 3, 1).reshape(tz, clusters * tx, clusters * ty).contiguous()
    result = torch.empty_like(z1, memory_format=torch.contiguous_format)
    with without_autocast(z1):
        for tile in _tiles(z1, ty, rz):
            first = tile.row_shifts(z1, mask, rz, ry)
            stack = first.new_empty(tile.items, clusters * tx, first.shape[2])
            for i, (weight, shifted) in enumerate(zip(weights, tile.plane_shifts(first, rz), strict=True)):
                stack.baddbmm_(weight.expand(tile.items, -1, -1), shifted, beta=min(i, 1))
            tile.add_columns(result, stack, rx)
    return result if mask is None else result.masked_fill_(~mask, 0)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    z1, z2, mask = ctx.saved_tensors
    grad1 = grad2 = None
    if ctx.needs_input_grad[0]:
        # Swapping the maps reverses displacements and transposes the joint.
        grad1 = _gradient_second(z2, grad.flip(0, 1, 2).mT, mask, ctx.radius)
    if ctx.needs_input_grad[1]:
        grad2 = _gradient_second(z1, grad, mask, ctx.radius)
    return grad1, grad2, None, None


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, list[int]], output: Tensor) -> None:
    z1, z2, mask, ctx.radius = inputs
    ctx.save_for_backward(z1, z2, mask)


@_joint.register_fake
def _(z1: Tensor, z2: Tensor, mask: Tensor | None, radius: Sequence[int]) -> Tensor:
    return z1.new_empty(*(2 * r + 1 for r in radius), z1.shape[1], z1.shape[1])


@_gradient_second.register_fake
def _(z1: Tensor, grad: Tensor, mask: Tensor | None, radius: Sequence[int]) -> Tensor:
    return torch.empty_like(z1, memory_format=torch.contiguous_format)


_joint.register_autograd(_gradients, setup_context=_remember)


@dataclass(frozen=True)
class _Tile:
    """A box of one sample: some planes, and in them some blocks of neighbouring rows.

    Stacks of shifts are [items, K T, voxels of a block]; an item is one block of one plane, in the order of planes.
    """

    sample: int
    plane: int
    planes: int
    row: int
    blocks: int
    block_rows: int

    @property
    def rows(self) -> int:
        return self.blocks * self.block_rows

    @property
    def items(self) -> int:
        return self.planes * self.blocks

    def row_shifts(self, x: Tensor, mask: Tensor | None, rz: int, ry: int) -> Tensor:
        """Shifts X + dy, dy ascending, of this tile's blocks in its planes and rz more on either side."""
        rows = self._with_halo(x, mask, rz, ry, 0)
        blocks = rows.unfold(2, self.block_rows + 2 * ry, self.block_rows).unfold(4, self.block_rows, 1)
        return blocks.permute(1, 2, 0, 4, 5, 3).reshape(-1, x.shape[1] * (2 * ry + 1), self.block_rows * x.shape[4])

    def column_shifts(self, x: Tensor, mask: Tensor | None, rx: int) -> Tensor:
        """Shifts X - dx, dx descending, of this tile's blocks."""
        columns = self._with_halo(x, mask, 0, 0, rx)
        blocks = columns.unfold(2, self.block_rows, self.block_rows).unfold(3, x.shape[4], 1)
        return blocks.permute(1, 2, 0, 3, 4, 5).reshape(self.items, -1, self.block_rows * x.shape[4])

    def plane_shifts(self, stack: Tensor, rz: int) -> Iterator[Tensor]:
        """Of a stack with rz more planes on either side, the parts displaced by dz, ascending."""
        return (stack[i * self.blocks : i * self.blocks + self.items] for i in range(2 * rz + 1))

    def add_columns(self, result: Tensor, stack: Tensor, rx: int) -> None:
        """Write the adjoint of `column_shifts` of a stack to this tile of a result: shift back and add up."""
        clusters, width = result.shape[1], result.shape[4]
        here = result[self.sample, :, self.plane : self.plane + self.planes, self.row : self.row + self.rows]
        shape = (self.planes, self.blocks, clusters, 2 * rx + 1, self.block_rows, width)
        shifts = stack.view(shape).permute(3, 2, 0, 1, 4, 5)
        here = here.unfold(2, self.block_rows, self.block_rows).transpose(3, 4)
        here.copy_(shifts[rx])
        for back in range(1, min(rx + 1, width)):
            here[..., :-back] += shifts[rx - back, ..., back:]
            here[..., back:] += shifts[rx + back, ..., :-back]

    def _with_halo(self, x: Tensor, mask: Tensor | None, rz: int, ry: int, rx: int) -> Tensor:
        """This tile of x, [K, planes + 2 rz, rows + 2 ry, W + 2 rx], with zeros outside the volume and the mask."""
        depth, height = x.shape[2:4]
        z0, z1 = self.plane - rz, self.plane + self.planes + rz
        y0, y1 = self.row - ry, self.row + self.rows + ry
        box = (self.sample, slice(None), slice(max(z0, 0), z1), slice(max(y0, 0), y1))
        part = x[box] if mask is None else x[box].masked_fill(~mask[box], 0)
        outside = (rx, rx, max(-y0, 0), max(y1 - height, 0), max(-z0, 0), max(z1 - depth, 0))
        return F.pad(part, outside) if any(outside) else part


_BLOCK_VOXELS = 512
"""Voxels of a block of rows: enough for a matrix product to run at full speed, few enough for the cache."""

_STACK_BYTES_PER_THREAD = 2 << 20
_STACK_BYTES_ON_DEVICE = 64 << 20
"""Memory of one stack. On a CPU it shall stay in the caches of its threads; a GPU needs many items to be occupied."""


def _tiles(z: Tensor, shifts: int, halo: int) -> Iterator[_Tile]:
    """Cut maps [B, K, D, H, W] into tiles whose stacks of so many shifts, with a halo of planes, stay small."""
    batch, clusters, depth, height, width = z.shape
    block_rows = max((n for n in range(1, height + 1) if height % n == 0 and n * width <= _BLOCK_VOXELS), default=1)
    voxel_bytes = clusters * z.element_size()
    on_cpu = z.device.type == "cpu"
    limit = _STACK_BYTES_PER_THREAD * torch.get_num_threads() if on_cpu else _STACK_BYTES_ON_DEVICE
    one_sample = voxel_bytes * depth * height * width
    items = min(limit, one_sample) // (voxel_bytes * shifts * block_rows * width)
    planes = min(max(items - 2 * halo, 1), depth)
    blocks = min(max(items // (planes + 2 * halo), 1), height // block_rows)
    for sample in range(batch):
        for plane in range(0, depth, planes):
            for block in range(0, height // block_rows, blocks):
                yield _Tile(
                    sample,
                    plane,
                    min(planes, depth - plane),
                    block * block_rows,
                    min(blocks, height // block_rows - block),
                    block_rows,
                )

"""Geometric transforms on the device, drawn once and replayed on images, features and masks.

Losses that ask a network for invariance compare f(T(x)) with T(f(x)). A `Geometry` is one draw of T for each
sample of a batch: flips, 90-degree turns, and optionally a small affine map. It is differentiable, acts on any
tensor that covers the same patch at any resolution, and can be undone: exactly for flips and turns, by a second
interpolation for the affine part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch.nn.functional import affine_grid, grid_sample

WHOLLY_INSIDE = 0.999
"""A voxel of a resampled or a pooled mask is True from this weight of True voxels on; the rest is float32 rounding."""


@dataclass(frozen=True)
class AffineRange:
    """What a random affine map may do.

    Attributes:
        rotation: largest angle about each axis, in degrees; drawn from [-rotation, rotation].
        scale: smallest and largest magnification, one for all axes; 2 makes objects twice as large.
        translation: largest shift along each axis, as a fraction of the patch; drawn from [-translation, translation].
        in_plane: leave the first axis of a 3D patch alone, for anisotropic plans.
    """

    rotation: float
    scale: tuple[float, float]
    translation: float
    in_plane: bool = False


@dataclass(frozen=True)
class Move:
    """The exact part of one sample's transform: flips first, then quarter turns.

    Axes are counted from the end (-1 is the last), so that they fit a sample as well as a batch.

    Attributes:
        flips: axes to mirror.
        plane: the two axes of the turn.
        turns: quarter turns from the first to the second axis of the plane, 0 to 3.
    """

    flips: tuple[int, ...] = ()
    plane: tuple[int, int] = (-2, -1)
    turns: int = 0

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Flip and turn x [..., *S]; x itself where there is nothing to do."""
        return self._turn(self._flip(x), self.turns)

    def undo(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `apply`, bit for bit."""
        return self._flip(self._turn(x, -self.turns))

    def _flip(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(self.flips) if self.flips else x

    def _turn(self, x: torch.Tensor, turns: int) -> torch.Tensor:
        if turns % 2 and x.shape[self.plane[0]] != x.shape[self.plane[1]]:
            raise ValueError(f"a quarter turn in plane {self.plane} does not fit shape {tuple(x.shape)}")
        return x.rot90(turns, self.plane) if turns else x


@dataclass(frozen=True)
class Geometry:
    """One transform for each sample of a batch.

    Attributes:
        dims: spatial dimensions, 2 or 3.
        moves: flips and turns, one for each sample.
        matrix: float64 [B, dims, dims + 1] or None; maps positions in the output to positions in the input, both
            in torch's normalised coordinates (last axis first, -1 and 1 at the outer edges of the patch).
    """

    dims: int
    moves: tuple[Move, ...]
    matrix: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Transform x [B, C, *S]: floating point, or bool, which stays True where only True voxels contribute.

        Raises:
            ValueError: another batch size or number of dimensions, or a turn in a plane that is not square.
        """
        self._check(x)
        x = _per_sample(x, self.moves, Move.apply)
        return x if self.matrix is None else _resample(x, self.matrix)

    def inverse(self, x: torch.Tensor) -> torch.Tensor:
        """Undo the transform, exactly (bit for bit) for flips and turns."""
        self._check(x)
        if self.matrix is not None:
            x = _resample(x, _inverted(self.matrix))
        return _per_sample(x, self.moves, Move.undo)

    def valid(self, x: torch.Tensor) -> torch.Tensor:
        """Bool [B, 1, *S]: where the transform of x shows nothing from outside the patch."""
        return self(torch.ones(x.shape[0], 1, *x.shape[2:], dtype=torch.bool, device=x.device))

    def _check(self, x: torch.Tensor) -> None:
        if x.shape[0] != len(self.moves) or x.ndim - 2 != self.dims:
            raise ValueError(
                f"geometry drawn for {len(self.moves)} samples in {self.dims}D cannot act on shape {tuple(x.shape)}"
            )


def draw_geometry(
    batch_size: int,
    spatial_shape: Sequence[int],
    generator: torch.Generator,
    mirror_axes: Sequence[int] | None,
    turns: bool = False,
    affine: AffineRange | None = None,
    spacing: Sequence[float] | None = None,
) -> Geometry:
    """Draw a transform for each sample, uniformly among what is allowed.

    Args:
        batch_size: B.
        spatial_shape: the patch in voxels, two or three numbers.
        generator: on the CPU; the only source of randomness.
        mirror_axes: spatial axes that may be flipped, each with probability 1/2; None or empty for no flips.
        turns: also turn by 0 to 3 quarters in one of the planes where patch and spacing are square.
        affine: also apply an affine map drawn from this range.
        spacing: voxel size per axis, needed where it is not the same along all of them.
    """
    spacing = [1.0] * len(spatial_shape) if spacing is None else spacing
    planes = _square_planes(spatial_shape, spacing) if turns else []
    axes = [axis - len(spatial_shape) for axis in mirror_axes or ()]
    moves = tuple(_draw_move(generator, axes, planes) for _ in range(batch_size))
    matrix = None
    if affine is not None:
        extent = torch.tensor([s * d for s, d in zip(spatial_shape, spacing, strict=True)], dtype=torch.float64)
        matrix = torch.stack([_draw_matrix(generator, affine, extent) for _ in range(batch_size)])
    return Geometry(len(spatial_shape), moves, matrix)


def _square_planes(shape: Sequence[int], spacing: Sequence[float]) -> list[tuple[int, int]]:
    axes = range(-len(shape), 0)
    return [
        (first, second)
        for first, second in combinations(axes, 2)
        if shape[first] == shape[second] and math.isclose(spacing[first], spacing[second], rel_tol=0.01)
    ]


def _draw_move(generator: torch.Generator, mirror_axes: Sequence[int], planes: Sequence[tuple[int, int]]) -> Move:
    coins = torch.rand(len(mirror_axes), generator=generator) < 0.5
    flips = tuple(axis for axis, coin in zip(mirror_axes, coins.tolist(), strict=True) if coin)
    if not planes:
        return Move(flips)
    plane = planes[int(torch.randint(len(planes), (), generator=generator))]
    turns = int(torch.randint(4, (), generator=generator))
    return Move(flips, plane, turns) if turns else Move(flips)


def _per_sample(
    x: torch.Tensor, moves: Sequence[Move], function: Callable[[Move, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    if len(set(moves)) == 1:
        return function(moves[0], x)
    return torch.stack([function(move, sample) for move, sample in zip(moves, x, strict=True)])


def _draw_matrix(generator: torch.Generator, affine: AffineRange, extent: torch.Tensor) -> torch.Tensor:
    """Output to input, [dims, dims + 1], float64, for a patch of this physical size."""
    dims = len(extent)
    free = range(1, dims) if affine.in_plane and dims == 3 else range(dims)
    planes = list(combinations(free, 2))
    coins = 2 * torch.rand(len(planes) + len(free) + 1, generator=generator, dtype=torch.float64) - 1
    angles, shifts, size = coins[: len(planes)], coins[len(planes) : -1], coins[-1]
    linear = torch.eye(dims, dtype=torch.float64)
    for (first, second), angle in zip(planes, (angles * math.radians(affine.rotation)).tolist(), strict=True):
        rotation = torch.eye(dims, dtype=torch.float64)
        rotation[first, first] = rotation[second, second] = math.cos(angle)
        rotation[first, second] = -math.sin(angle)
        rotation[second, first] = math.sin(angle)
        linear = rotation @ linear
    smallest, largest = affine.scale
    linear[:, list(free)] /= (smallest + largest) / 2 + size * (largest - smallest) / 2
    shift = torch.zeros(dims, dtype=torch.float64)
    # The patch is two units long in normalised coordinates.
    shift[list(free)] = 2 * affine.translation * shifts
    linear = linear * extent / extent[:, None]
    # torch lists the last axis first.
    return torch.cat([linear, -(linear @ shift)[:, None]], dim=1).flip(0)[:, [*range(dims - 1, -1, -1), dims]]


def _inverted(matrix: torch.Tensor) -> torch.Tensor:
    linear = torch.linalg.inv(matrix[:, :, :-1])
    return torch.cat([linear, -linear @ matrix[:, :, -1:]], dim=2)


def _resample(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Linear interpolation with zeros outside; a bool mask is True where only True voxels contribute."""
    # A grid in half precision would be off by tenths of a voxel, and autocast would compute it so.
    working = x.to(torch.promote_types(x.dtype, torch.float32))
    with torch.autocast(x.device.type, enabled=False):
        grid = affine_grid(matrix.to(working), list(x.shape), align_corners=False)
        sampled = grid_sample(working, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled > WHOLLY_INSIDE if x.dtype == torch.bool else sampled.to(x.dtype)

"""Sparse labels from dense ones, as annotators with little time would have left them.

What may stay annotated is a share of all voxels of the case, and is never exceeded. A label that stays is the true one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnunetv2_semisup.data.depth import Depth, Mask, depth_inside
from nnunetv2_semisup.data.scribbles import draw_strokes, stroke_width
from nnunetv2_semisup.data.slice_choice import Counts, choose_slices, slice_axis
from nnunetv2_semisup.errors import SemiSupervisedError

Labels = npt.NDArray[np.int32]
Spacing = Sequence[float]

_UNKNOWN = -1
_ROUNDS = 50
"""Strokes of a structure in one slice at most."""


def sparsify(
    labels: Labels,
    spacing: Spacing,
    *,
    mode: str,
    budget: float,
    ignore: int,
    foreground_only: bool = False,
    rng: np.random.Generator,
) -> Labels:
    """The labels with every voxel that is not annotated set to `ignore`.

    Args:
        labels: [z, y, x] as nnU-Net reads them; a 2D image has one slice. Voxels that are `ignore` stay so.
        spacing: mm along (z, y, x).
        mode: a key of `MODES`.
        budget: share of all voxels, between 0 and 1, that may stay annotated. Everything else is as near to it as
            the mode can come: `slices` to one slice, `erosion` to one voxel a class, `points` and `scribbles` exactly,
            unless points and strokes have filled the structures before.
        ignore: nnU-Net's ignore label.
        foreground_only: background is not annotated.
        rng: everything that is random.

    Raises:
        SemiSupervisedError: nothing can be annotated; a budget below one voxel a class, or with `slices` below a slice;
            slices of a 2D image.
    """
    first = 1 if foreground_only else 0
    known = np.where((labels == ignore) | (labels < first), _UNKNOWN, labels).astype(np.int32)
    values = np.unique(known[known >= 0])
    if not len(values):
        if foreground_only and (labels == 0).any():
            raise SemiSupervisedError("it holds no structure; leave --foreground-only out, or remove the file")
        raise SemiSupervisedError("it holds nothing but the ignore label; remove the file")
    n_voxels = math.floor(budget * labels.size + 1e-6)
    if n_voxels < len(values):
        raise SemiSupervisedError(
            f"it holds {len(values)} classes, and --budget {budget:g} allows {n_voxels} of its {labels.size} voxels; "
            f"type --budget {_rounded_up(len(values) / labels.size)} or more"
        )
    if np.count_nonzero(known >= 0) <= n_voxels:
        return np.where(known >= 0, labels, ignore).astype(np.int32)
    return np.where(MODES[mode](known, spacing, n_voxels, rng), labels, ignore).astype(np.int32)


def _slices(known: Labels, spacing: Spacing, n_voxels: int, rng: np.random.Generator) -> Mask:
    """Whole slices across the coarsest axis, as many as there is room for."""
    if 1 in known.shape:
        raise SemiSupervisedError("it is a 2D image, of which slices would be lines; choose another --mode")
    axis = slice_axis(known.shape, spacing)
    values, voxels = _voxels_of_slices(np.moveaxis(known, axis, 0))
    offset = rng.random()
    for number in range(len(voxels), 0, -1):
        chosen = choose_slices(voxels, values, number, offset)
        if voxels[chosen].sum() <= n_voxels:
            break
    else:
        needed = _rounded_up(voxels.sum(1).max() / known.size)
        raise SemiSupervisedError(f"the budget is less than one slice; type --budget {needed} or more")
    keep = np.zeros(known.shape, bool)
    np.moveaxis(keep, axis, 0)[chosen] = True
    return keep & (known >= 0)


def _scribbles(known: Labels, spacing: Spacing, n_voxels: int, rng: np.random.Generator) -> Mask:
    """Strokes in as many slices as the budget needs, all shortened by the same share to meet it."""
    axis = slice_axis(known.shape, spacing)
    planes = np.moveaxis(known, axis, 0)
    in_plane = tuple(np.delete(spacing, axis))
    values, voxels = _voxels_of_slices(planes)
    offset, entropy = rng.random(), int(rng.integers(2**62))
    order = np.full(known.shape, np.inf, np.float32)
    drawn = np.moveaxis(order, axis, 0)

    def draw(index: int, turn: int) -> None:
        new = turn + draw_strokes(planes[index], in_plane, np.random.default_rng([entropy, index, turn]))
        np.minimum(drawn[index], new, out=drawn[index])

    number = 1
    while True:
        chosen = choose_slices(voxels, values, number, offset)
        for index in chosen:
            if np.isinf(drawn[index]).all():
                draw(index, 0)
        found = int(np.isfinite(drawn[chosen]).sum())
        if number >= len(planes) or (found >= n_voxels and voxels[chosen].any(0).all()):
            break
        number = min(len(planes), max(number + 1, number * n_voxels // found))
    drawn[np.setdiff1d(np.arange(len(planes)), chosen)] = np.inf
    for turn in range(1, _ROUNDS):
        if found >= n_voxels:
            break
        for index in chosen:
            draw(index, turn)
        found = int(np.isfinite(drawn).sum())
    return _first(order, known, n_voxels)


def _points(known: Labels, spacing: Spacing, n_voxels: int, rng: np.random.Generator) -> Mask:
    """Balls as thick as two strokes, one a class in turn, the rarest class first, around random interior voxels."""
    axis = slice_axis(known.shape, spacing)
    radius = stroke_width(tuple(np.delete(known.shape, axis)), tuple(np.delete(spacing, axis)))
    centers = {
        value: _centers(crop, mask, depth, radius, n_voxels, rng)
        for value, crop, mask, depth in _depths(known, spacing)
    }
    # Smaller where the budget would not allow one ball a class.
    ball = _ball(known.shape, spacing, radius)[: n_voxels // len(centers)]
    keep = np.zeros(known.shape, bool)
    left = n_voxels
    while centers and left:
        for value in list(centers):
            center = next((center for center in centers[value] if not keep[tuple(center)]), None)
            if center is None:
                del centers[value]
                continue
            around = center + ball
            place = tuple(around[((around >= 0) & (around < known.shape)).all(1)].T)
            new = tuple(index[(known[place] == value) & ~keep[place]][:left] for index in place)
            keep[new] = True
            left -= len(new[0])
    return keep


def _erosion(known: Labels, spacing: Spacing, n_voxels: int, rng: np.random.Generator) -> Mask:
    """Every class loses its outer voxels, in mm, until the same share of each is left."""
    values, counts = np.unique(known[known >= 0], return_counts=True)
    quotas = _quotas(counts, n_voxels)
    keep = np.zeros(known.shape, bool)
    for value, crop, mask, depth in _depths(known, spacing):
        depths = depth[mask]
        # The innermost layer that is not kept whole is thinned at random.
        depths += 1e-4 * min(spacing) * rng.random(depths.shape, np.float32)
        quota = quotas[np.searchsorted(values, value)]
        inner = np.zeros(depths.shape, bool)
        inner[np.argpartition(-depths, quota - 1)[:quota]] = True
        keep[crop][mask] = inner
    return keep


Mode = Callable[[Labels, Spacing, int, np.random.Generator], Mask]
MODES: dict[str, Mode] = {"slices": _slices, "scribbles": _scribbles, "points": _points, "erosion": _erosion}
"""Each takes labels (negative where nothing may be annotated), spacing, a number of voxels and random numbers."""


def _voxels_of_slices(planes: Labels) -> tuple[list[int], Counts]:
    """The classes of labels [slices, y, x], and how many voxels each slice has of each: [slices, classes]."""
    values = [int(value) for value in np.unique(planes[planes >= 0])]
    return values, np.stack([np.count_nonzero(planes == value, axis=(1, 2)) for value in values], 1)


def _first(order: npt.NDArray[np.float32], known: Labels, n_voxels: int) -> Mask:
    """The voxels with the smallest finite numbers; the smallest of each class comes before all others."""
    places = np.flatnonzero(np.isfinite(order))
    numbers, classes = order.ravel()[places], known.ravel()[places]
    for value in np.unique(classes):
        own = np.flatnonzero(classes == value)
        numbers[own[numbers[own].argmin()]] = -1
    keep = np.zeros(order.size, bool)
    keep[places[np.argsort(numbers, kind="stable")[:n_voxels]]] = True
    return keep.reshape(order.shape)


def _depths(known: Labels, spacing: Spacing) -> Iterator[tuple[int, tuple[slice, ...], Mask, Depth]]:
    """Of each class, the rarest first: its value, a crop with a margin of 1, and its mask and depth in it."""
    crops = dict(enumerate(ndimage.find_objects(known + 1)))
    values, counts = np.unique(known[known >= 0], return_counts=True)
    for value in values[np.argsort(counts, kind="stable")]:
        crop = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in crops[value])
        mask = known[crop] == value
        yield int(value), crop, mask, depth_inside(mask, spacing)


def _centers(
    crop: tuple[slice, ...], mask: Mask, depth: Depth, radius: float, number: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.intp]]:
    """Random voxels around which a ball touches no border; where a class is too thin, of its deeper half."""
    interior = np.flatnonzero(mask & (depth > min(radius, depth.max() / 2)))
    drawn = rng.choice(interior, min(len(interior), number), replace=False)
    return iter(np.stack(np.unravel_index(drawn, mask.shape), 1) + [side.start for side in crop])


def _ball(shape: Sequence[int], spacing: Spacing, radius: float) -> npt.NDArray[np.intp]:
    """Offsets [n, 3] in voxels, the nearest first."""
    reach = [0 if size == 1 else int(radius / step) for size, step in zip(shape, spacing, strict=True)]
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(-1, len(shape))
    distance = np.linalg.norm(offsets * np.asarray(spacing), axis=1)
    nearest = np.argsort(distance, kind="stable")
    return np.asarray(offsets[nearest[distance[nearest] <= radius]], np.intp)


def _quotas(counts: npt.NDArray[np.intp], n_voxels: int) -> npt.NDArray[np.intp]:
    """The same share of every class and at least one voxel, together `n_voxels` at most."""
    quotas = np.maximum(counts * n_voxels // counts.sum(), 1)
    while quotas.sum() > n_voxels:
        quotas[quotas.argmax()] -= 1
    return np.asarray(quotas, np.intp)


def _rounded_up(share: float) -> str:
    """Two digits, not below the share."""
    digits = 1 - math.floor(math.log10(share))
    return f"{math.ceil(share * 10**digits) / 10**digits:.{digits}f}"

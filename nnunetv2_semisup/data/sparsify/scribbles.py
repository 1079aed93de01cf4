"""Strokes as an annotator draws them in a slice: along the middle of each structure, and around them in the background.

A stroke in a structure is the cheapest path, deep voxels being cheap, from a random point to the one that is hardest to
reach: it runs along the middle, bends with the structure and keeps off its border. A stroke in the background is a
piece of a line of equal distance from the structures, the distance being drawn anew for each stroke, near ones more
often.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.graph import MCP_Geometric
from skimage.measure import find_contours, label

from nnunetv2_semisup.data.sparsify.depth import depth_inside
from nnunetv2_semisup.data.sparsify.slice_choice import Counts, Indices, choose_slices, slice_axis, voxels_of_slices

Plane = npt.NDArray[np.int32]
Order = npt.NDArray[np.float32]
Path = npt.NDArray[np.intp]

WIDTH = 3.0
"""Of a stroke in mm: a pencil of a few pixels on usual CT and MRI."""
_SIDE = 20
_ROUNDS = 50
"""Strokes of a structure in one slice at most."""
_FAR = 0.8
"""Strokes in the background are at most so far from the structures, as a share of the farthest voxel's distance."""
_CORE = 0.4
"""Strokes stay where a structure is at least so deep, as a share of its greatest depth."""


def scribbles(
    known: npt.NDArray[np.int32], spacing: Sequence[float], n_voxels: int, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Strokes in as many slices as `n_voxels` need, all shortened by the same share; see `sparse_labels.MODES`.

    Where all slices are not enough each gets more strokes, `_ROUNDS` at most.
    """
    axis = slice_axis(known.shape, spacing)
    planes = np.moveaxis(known, axis, 0)
    in_plane = tuple(np.delete(spacing, axis))
    values, voxels = voxels_of_slices(planes)
    offset, entropy = rng.random(), int(rng.integers(2**62))
    order = np.full(known.shape, np.inf, np.float32)
    drawn = np.moveaxis(order, axis, 0)

    def draw(index: int, turn: int) -> None:
        new = turn + draw_strokes(planes[index], in_plane, np.random.default_rng([entropy, index, turn]))
        np.minimum(drawn[index], new, out=drawn[index])

    number, most = 1, int(np.count_nonzero(voxels.any(1)))
    while True:
        chosen = _slices_with_every_class(voxels, values, number, offset)
        for index in chosen:
            if np.isinf(drawn[index]).all():
                draw(index, 0)
        found = int(np.count_nonzero(np.isfinite(drawn[chosen])))
        if found >= n_voxels or len(chosen) == most:
            break
        number = int(max(len(chosen) + 1, len(chosen) * n_voxels // found))
    drawn[np.setdiff1d(np.arange(len(planes)), chosen)] = np.inf
    for turn in range(1, _ROUNDS):
        if found >= n_voxels:
            break
        for index in chosen:
            draw(index, turn)
        found = int(np.count_nonzero(np.isfinite(drawn)))
    return _first(order, known, n_voxels)


def stroke_width(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Width in mm for slices [y, x] of this spacing: `WIDTH`, or a 20th of the shorter side where this is less."""
    return min(WIDTH, float(np.multiply(shape, spacing).min()) / _SIDE)


def draw_strokes(plane: Plane, spacing: Sequence[float], rng: np.random.Generator) -> Order:
    """One stroke in every connected piece of every structure, and one in the background.

    Args:
        plane: labels [y, x]; 0 is background, and nothing is drawn where they are negative.
        spacing: mm along (y, x).
        rng: where strokes begin, and how far from the structures that of the background is.

    Returns:
        [y, x]: how far along its stroke a voxel lies, 0 at the beginning and 1 at the end; infinite off the strokes. A
        stroke stays inside its structure, and cut at any value it is a shorter stroke.
    """
    order = np.full(plane.shape, np.inf, np.float32)
    width = stroke_width(plane.shape, spacing)
    for value in np.unique(plane[plane > 0]):
        pieces = label(plane == value, connectivity=2)
        for index, crop in enumerate(ndimage.find_objects(pieces), start=1):
            piece = pieces[crop] == index
            path = _path_inside(piece, spacing, rng)
            np.minimum(order[crop], thick_stroke(path, piece, spacing, width), out=order[crop])
    background = plane == 0
    if background.any():
        path = _path_around(plane > 0, background, spacing, width, rng)
        np.minimum(order, thick_stroke(path, background, spacing, width), out=order)
    return order


def thick_stroke(path: Path, inside: npt.NDArray[np.bool_], spacing: Sequence[float], width: float) -> Order:
    """The stroke along a path [n, 2]: how far along it, from 0 to 1, each voxel inside lies that is on it.

    On it is what lies within half the width, in mm, of a voxel of the path; all others are infinite.
    """
    length = np.append(0, np.cumsum(_steps(path, spacing)))
    along = np.full(inside.shape, np.inf, np.float32)
    # A path that meets itself keeps its first passage.
    np.minimum.at(along, tuple(path.T), (length / max(length[-1], 1e-6)).astype(np.float32))
    distance, nearest = ndimage.distance_transform_edt(np.isinf(along), sampling=spacing, return_indices=True)
    return np.where(inside & (distance <= width / 2), along[tuple(nearest)], np.float32(np.inf))


def _path_inside(piece: npt.NDArray[np.bool_], spacing: Sequence[float], rng: np.random.Generator) -> Path:
    """Neighbouring voxels [n, 2] from a random one in the piece's core to the one that is hardest to reach from it."""
    depth = depth_inside(np.pad(piece, 1), spacing)[1:-1, 1:-1]
    core = depth >= _CORE * depth.max()
    costs = np.where(core, (depth.max() / np.maximum(depth, 1e-6)) ** 2, -1.0)
    starts = np.argwhere(core)
    search = MCP_Geometric(costs, sampling=tuple(spacing))
    reached, _ = search.find_costs([starts[rng.integers(len(starts))]])
    end = np.unravel_index(int(np.where(np.isfinite(reached), reached, -1).argmax()), reached.shape)
    return np.array(search.traceback(end), np.intp)


def _path_around(
    structures: npt.NDArray[np.bool_],
    background: npt.NDArray[np.bool_],
    spacing: Sequence[float],
    width: float,
    rng: np.random.Generator,
) -> Path:
    """Voxels [n, 2] of a piece of a line of equal distance, no longer than the slice's shorter side.

    The distance is that from the structures, or where there are none from a random voxel. Of several lines, around
    several structures, a long one is more often taken.
    """
    origin = structures
    voxels = np.argwhere(background)
    if not structures.any():
        origin = np.zeros_like(structures)
        origin[tuple(voxels[rng.integers(len(voxels))])] = True
    distance = ndimage.distance_transform_edt(~origin, sampling=spacing)
    level = width + max(_FAR * float(distance.max()) - width, 0.0) * rng.random() ** 2
    lines = find_contours(distance, level) or [np.empty((0, 2))]
    points = np.array([max(len(line), 1) for line in lines])
    line = lines[rng.choice(len(lines), p=points / points.sum())]
    start = rng.integers(len(line)) if len(line) else 0
    is_closed = len(line) > 1 and bool((line[0] == line[-1]).all())
    line = np.roll(line[:-1], -start, axis=0) if is_closed else line[start:]
    along = np.append(0, np.cumsum(_steps(line, spacing)))[: len(line)]
    line = line[along <= np.multiply(structures.shape, spacing).min()]
    path = np.rint(line).astype(np.intp)
    path = path[background[tuple(path.T)]]
    return np.asarray(path if len(path) else voxels[rng.integers(len(voxels))][None], np.intp)


def _steps(line: npt.NDArray[np.generic], spacing: Sequence[float]) -> npt.NDArray[np.float64]:
    return np.asarray(np.linalg.norm(np.diff(line, axis=0) * np.asarray(spacing), axis=1), np.float64)


def _slices_with_every_class(voxels: Counts, values: Sequence[int], number: int, offset: float) -> Indices:
    """As `choose_slices`, and more slices where so few do not hold every class."""
    while True:
        chosen = choose_slices(voxels, values, number, offset)
        if voxels[chosen].any(0).all():
            return chosen
        number += 1


def _first(order: npt.NDArray[np.float32], known: npt.NDArray[np.int32], n_voxels: int) -> npt.NDArray[np.bool_]:
    """The voxels with the smallest finite numbers; the smallest of each class comes before all others."""
    places = np.flatnonzero(np.isfinite(order))
    numbers, classes = order.ravel()[places], known.ravel()[places]
    for value in np.unique(classes):
        own = np.flatnonzero(classes == value)
        numbers[own[numbers[own].argmin()]] = -1
    keep = np.zeros(order.size, bool)
    keep[places[np.argsort(numbers, kind="stable")[:n_voxels]]] = True
    return keep.reshape(order.shape)

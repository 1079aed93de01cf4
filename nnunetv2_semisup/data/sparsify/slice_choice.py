"""Which slices of a volume an annotator gets: evenly spread, and every class in one of them where that can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]
Counts = npt.NDArray[np.int64]

WITHOUT_STRUCTURE = 4
"""One slice in so many holds background only, where there are such slices: someone who annotates for training shows
where nothing is, too."""
_SAME_SPACING = 1.01


def slice_axis(shape: Sequence[int], spacing: Sequence[float]) -> int:
    """The axis across slices: that of a 2D image, else the coarsest, and the first of those that are equally coarse."""
    if 1 in shape:
        return tuple(shape).index(1)
    return next(axis for axis, size in enumerate(spacing) if size * _SAME_SPACING >= max(spacing))


def voxels_of_slices(planes: npt.NDArray[np.int32]) -> tuple[list[int], Counts]:
    """The classes of labels [slices, y, x], and how many voxels each slice has of each: [slices, classes].

    Negative labels are no class.
    """
    values = [int(value) for value in np.unique(planes[planes >= 0])]
    return values, np.stack([np.count_nonzero(planes == value, axis=(1, 2)) for value in values], 1)


def choose_slices(voxels: Counts, values: Sequence[int], number: int, offset: float) -> Indices:
    """Indices of the slices, in ascending order.

    Args:
        voxels: [slices, classes], how many voxels of each class can be annotated in each slice.
        values: of the classes; 0 is background.
        number: how many slices, at least 1; fewer come back where fewer hold anything.
        offset: where the even spread begins, in [0, 1) of the distance between two slices.
    """
    structure = voxels[:, np.asarray(values) > 0].any(1)
    with_structure = np.flatnonzero(structure)
    without = np.flatnonzero(~structure & voxels.any(1))
    n_without = min(len(without), number // WITHOUT_STRUCTURE)
    n_with = min(len(with_structure), number - n_without)
    n_without = min(len(without), number - n_with)
    spread = (*_spread(with_structure, n_with, offset), *_spread(without, n_without, offset))
    return np.array(sorted(_cover(set(map(int, spread)), voxels > 0)), np.intp)


def _spread(slices: Indices, number: int, offset: float) -> Indices:
    places = (np.arange(number) + offset) * len(slices) / max(number, 1)
    return slices[np.minimum(places.astype(np.intp), len(slices) - 1)]


def _cover(chosen: set[int], holds: npt.NDArray[np.bool_]) -> set[int]:
    """Let the nearest dispensable slice make room for a class that no slice holds; the rarest class comes first.

    With at least as many slices as classes every class is held in the end.
    """
    for column in np.argsort(holds.sum(0), kind="stable"):
        candidates = np.flatnonzero(holds[:, column])
        if not len(candidates) or holds[sorted(chosen), column].any():
            continue
        often = holds[sorted(chosen)].sum(0) > 1
        dispensable = [index for index in sorted(chosen) if often[holds[index]].all()]
        if dispensable:
            distance = np.abs(np.subtract.outer(dispensable, candidates))
            leaves, enters = np.unravel_index(int(distance.argmin()), distance.shape)
            chosen = chosen - {dispensable[leaves]} | {int(candidates[enters])}
    return chosen

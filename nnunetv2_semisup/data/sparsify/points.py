"""Small balls at random places inside the structures, as an annotator's clicks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from nnunetv2_semisup.data.sparsify.depth import Depth, Mask, depths_by_class
from nnunetv2_semisup.data.sparsify.scribbles import stroke_width
from nnunetv2_semisup.data.sparsify.slice_choice import slice_axis


def points(known: npt.NDArray[np.int32], spacing: Sequence[float], n_voxels: int, rng: np.random.Generator) -> Mask:
    """Balls twice as thick as strokes, one a class in turn, the rarest class first; see `sparse_labels.MODES`.

    They end below `n_voxels` where there is no more room inside the structures.
    """
    axis = slice_axis(known.shape, spacing)
    radius = stroke_width(tuple(np.delete(known.shape, axis)), tuple(np.delete(spacing, axis)))
    centers = {
        value: _centers(crop, mask, depth, radius, n_voxels, rng)
        for value, crop, mask, depth in depths_by_class(known, spacing)
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


def _centers(
    crop: tuple[slice, ...], mask: Mask, depth: Depth, radius: float, number: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.intp]]:
    """Random voxels around which a ball touches no border; where a class is too thin, of its deeper half."""
    interior = np.flatnonzero(mask & (depth > min(radius, depth.max() / 2)))
    drawn = rng.choice(interior, min(len(interior), number), replace=False)
    return iter(np.stack(np.unravel_index(drawn, mask.shape), 1) + [side.start for side in crop])


def _ball(shape: Sequence[int], spacing: Sequence[float], radius: float) -> npt.NDArray[np.intp]:
    """Offsets [n, 3] in voxels, the nearest first."""
    reach = [0 if size == 1 else int(radius / step) for size, step in zip(shape, spacing, strict=True)]
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(-1, len(shape))
    distance = np.linalg.norm(offsets * np.asarray(spacing), axis=1)
    nearest = np.argsort(distance, kind="stable")
    return np.asarray(offsets[nearest[distance[nearest] <= radius]], np.intp)

"""Which structures come in one piece, as the labels of the labelled cases show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cc3d
import numpy as np
import numpy.typing as npt

PATCHES = 4
"""Patches drawn of each case."""
FEWEST_CASES = 3
"""Cases that must hold a structure before anything is said of it."""
MOST_STRAY = 0.01
"""Share of a structure's voxels, in all patches together, that may lie outside the largest component of their patch."""

Map = npt.NDArray[np.integer]


def structures_in_one_piece(
    label_maps: Iterable[Map], structures: Sequence[Sequence[int]], patch_size: Sequence[int]
) -> tuple[int, ...]:
    """The structures of which hardly a voxel would be lost if a patch kept only their largest connected component.

    Judged on random patches, since that is what a network is shown: an organ that is one piece in the body may be
    several in a patch, or in a slice. The patches are the same on every call.

    Args:
        label_maps: of the labelled cases, [*S] with three axes; a 2D patch is a slice along the first.
        structures: the labels of each; the first is structure 1.
        patch_size: in voxels, two or three numbers.

    Returns:
        Numbers of structures, from 1.
    """
    generator = np.random.default_rng(0)
    patch_size = (1,) * (3 - len(patch_size)) + tuple(patch_size)
    cases, voxels, stray = (np.zeros(len(structures)) for _ in range(3))
    for labels in label_maps:
        for index, structure in enumerate(structures):
            cases[index] += bool(np.isin(labels, structure).any())
        for _ in range(PATCHES):
            patch = labels[_random_box(labels.shape, patch_size, generator)]
            for index, structure in enumerate(structures):
                mask = np.isin(patch, structure)
                voxels[index] += mask.sum()
                stray[index] += mask.sum() - largest_components(mask).sum()
    seen = (cases >= FEWEST_CASES) & (voxels > 0)
    return tuple(int(i) + 1 for i in np.flatnonzero(seen & (stray <= MOST_STRAY * voxels)))


def largest_components(labels: Map | npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Where a label map, or a mask, with two or three axes is the largest connected component of its label.

    Voxels are connected through faces, edges and corners. Of several that are largest the first stays. 0 is no label.
    """
    components = cc3d.connected_components(labels, connectivity=26 if labels.ndim == 3 else 8)
    where = np.flatnonzero(labels)
    component = components.ravel()[where]
    sizes = np.bincount(component)
    label_of = np.zeros(len(sizes), labels.dtype)
    label_of[component] = labels.ravel()[where]
    largest = [np.where(label_of == label, sizes, 0).argmax() for label in np.unique(label_of) if label]
    kept = np.zeros(labels.shape, bool)
    kept.ravel()[where] = np.isin(np.arange(len(sizes)), largest)[component]
    return kept


def _random_box(shape: Sequence[int], size: Sequence[int], generator: np.random.Generator) -> tuple[slice, ...]:
    """A box of this size somewhere inside; the whole axis where it is shorter."""
    starts = [int(generator.integers(max(full - part, 0) + 1)) for full, part in zip(shape, size, strict=True)]
    return tuple(slice(start, start + part) for start, part in zip(starts, size, strict=True))

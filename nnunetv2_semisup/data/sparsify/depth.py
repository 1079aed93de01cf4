"""How deep inside its structure a voxel lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]
Depth = npt.NDArray[np.float32]


def depth_inside(mask: Mask, spacing: Sequence[float]) -> Depth:
    """Distance from each voxel of the mask to the nearest voxel outside it, in mm; 0 outside.

    What lies beyond the image is unknown and not outside: a structure that the field of view cuts is deep there. A mask
    that fills the image is 1 everywhere.
    """
    if mask.all():
        return np.ones(mask.shape, np.float32)
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing), np.float32)


def depths_by_class(
    labels: npt.NDArray[np.int32], spacing: Sequence[float]
) -> Iterator[tuple[int, tuple[slice, ...], Mask, Depth]]:
    """Of each class, the rarest first: its value, a crop with a margin of 1, and its mask and depth there.

    Negative labels are no class.
    """
    crops = dict(enumerate(ndimage.find_objects(labels + 1)))
    values, counts = np.unique(labels[labels >= 0], return_counts=True)
    for value in values[np.argsort(counts, kind="stable")]:
        crop = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in crops[value])
        mask = labels[crop] == value
        yield int(value), crop, mask, depth_inside(mask, spacing)

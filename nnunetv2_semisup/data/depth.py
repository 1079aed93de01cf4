"""How deep inside its structure a voxel lies."""

from __future__ import annotations

from collections.abc import Sequence

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

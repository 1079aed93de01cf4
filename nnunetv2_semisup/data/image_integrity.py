"""What nnU-Net's readers pass over in silence in NIfTI files.

SimpleITK fills the missing end of a truncated file with zeros, and replaces NaN and infinite voxels by zeros. Either
would teach the network something false.
"""

from __future__ import annotations

from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt


def check_nifti(file: str) -> None:
    """Read a NIfTI file a second time, by nibabel, which hides nothing; any other file passes.

    Raises:
        ValueError: the file is truncated or damaged, or has NaN or infinite voxels.
    """
    if not file.endswith((".nii", ".nii.gz")):
        return
    try:
        voxels = np.asanyarray(nibabel.load(file).dataobj.get_unscaled())  # type: ignore[attr-defined]
    except Exception as error:
        raise ValueError(f"the file is truncated or damaged ({' '.join(str(error).split())})") from error
    if voxels.dtype.kind in "fc":
        refuse_non_finite(voxels)


def refuse_non_finite(voxels: npt.NDArray[Any]) -> None:
    """Raises ValueError where a voxel is NaN or infinite."""
    count = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
    if count:
        raise ValueError(f"the image has {count} NaN or infinite voxel(s)")

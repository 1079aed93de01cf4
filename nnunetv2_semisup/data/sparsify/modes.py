"""Sparse labels from dense ones, as annotators with little time would have left them.

What may stay annotated is a share of all voxels of the case, and is never exceeded. A label that stays is the true one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from nnunetv2_semisup.data.sparsify.erosion import erosion
from nnunetv2_semisup.data.sparsify.points import points
from nnunetv2_semisup.data.sparsify.scribbles import scribbles
from nnunetv2_semisup.data.sparsify.slice_choice import choose_slices, slice_axis, voxels_of_slices
from nnunetv2_semisup.errors import SemiSupervisedError

Labels = npt.NDArray[np.int32]

_UNKNOWN = -1


def sparsify(
    labels: Labels,
    spacing: Sequence[float],
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
        budget: share of all voxels, between 0 and 1, that may stay annotated. The mode comes as near to it as it
            can: `slices` to one slice, `erosion` to one voxel a class, `points` and `scribbles` exactly, unless points
            and strokes have filled the structures before.
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


def _slices(known: Labels, spacing: Sequence[float], n_voxels: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Whole slices across the coarsest axis, as many as there is room for."""
    if 1 in known.shape:
        raise SemiSupervisedError("it is a 2D image, of which slices would be lines; choose another --mode")
    axis = slice_axis(known.shape, spacing)
    values, voxels = voxels_of_slices(np.moveaxis(known, axis, 0))
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


Mode = Callable[[Labels, Sequence[float], int, np.random.Generator], npt.NDArray[np.bool_]]
MODES: dict[str, Mode] = {"slices": _slices, "scribbles": scribbles, "points": points, "erosion": erosion}
"""Each returns which voxels stay, and takes labels [z, y, x] that are negative where nothing may be annotated, their
spacing, how many voxels may stay (fewer than there are, and at least one a class), and random numbers."""


def _rounded_up(share: float) -> str:
    """Two digits, not below the share."""
    digits = 1 - math.floor(math.log10(share))
    return f"{math.ceil(share * 10**digits) / 10**digits:.{digits}f}"

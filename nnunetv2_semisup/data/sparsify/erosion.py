"""The inner part of every structure, as a cautious annotator's who leaves the borders open."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nnunetv2_semisup.data.sparsify.depth import Mask, depths_by_class


def erosion(known: npt.NDArray[np.int32], spacing: Sequence[float], n_voxels: int, rng: np.random.Generator) -> Mask:
    """Every class loses its outer voxels, in mm, until the same share of each is left; see `sparse_labels.MODES`."""
    values, counts = np.unique(known[known >= 0], return_counts=True)
    quotas = _quotas(counts, n_voxels)
    keep = np.zeros(known.shape, bool)
    for value, crop, mask, depth in depths_by_class(known, spacing):
        depths = depth[mask]
        # The innermost layer that is not kept whole is thinned at random.
        depths += 1e-4 * min(spacing) * rng.random(depths.shape, np.float32)
        quota = quotas[np.searchsorted(values, value)]
        inner = np.zeros(depths.shape, bool)
        inner[np.argpartition(-depths, quota - 1)[:quota]] = True
        keep[crop][mask] = inner
    return keep


def _quotas(counts: npt.NDArray[np.intp], n_voxels: int) -> npt.NDArray[np.intp]:
    """The same share of every class and at least one voxel, together `n_voxels` at most."""
    quotas = np.maximum(counts * n_voxels // counts.sum(), 1)
    while quotas.sum() > n_voxels:
        quotas[quotas.argmax()] -= 1
    return np.asarray(quotas, np.intp)

"""Preprocessed unlabelled cases, read one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunetv2_semisup.data.pseudo_labels import open_labels

_SLAB = 32
"""Voxels read at once along an axis: about the edge of the blocks that nnU-Net's files are compressed in."""


class UnlabeledDataset:
    """The cases of one folder that nnU-Net's `run_case_save` wrote without a label file.

    Nothing is kept between calls, so memory does not grow with the number of cases. Pickles.
    """

    def __init__(self, folder: Path, identifiers: Sequence[str], pseudo_labels: Path | None = None) -> None:
        """Describe the cases; nothing is read yet.

        Args:
            folder: holds ID.b2nd (image), ID_seg.b2nd (nonzero mask) and ID.pkl for each of `identifiers`.
            identifiers: of the cases.
            pseudo_labels: folder of their pseudo-labels, where there are any.
        """
        self.identifiers = tuple(identifiers)
        self.pseudo_labels = pseudo_labels
        # nnU-Net sorts the list that it is given in place.
        self._cases = nnUNetDatasetBlosc2(str(folder), list(identifiers))

    def load_case(self, identifier: str) -> tuple[Any, Any, dict[str, Any]]:
        """Open one case: image [C, *S] float32 and nonzero mask [1, *S], on disk until sliced, and the properties."""
        image, nonzero, _, properties = self._cases.load_case(identifier)
        return image, nonzero, properties

    def load_pseudo_label(self, identifier: str) -> Any | None:
        """Open one case's pseudo-label [1, *S], on disk until sliced; None where the dataset has none."""
        return None if self.pseudo_labels is None else open_labels(self.pseudo_labels, identifier)


def nonzero_box(nonzero: Any) -> tuple[tuple[int, int], ...]:
    """The smallest box around the voxels that are 0: half-open bounds per spatial axis.

    Reads slabs from the outside inwards and stops where it meets the region, so that a case which nnU-Net has
    already cropped to its nonzero region (as the stock preprocessor does) costs its faces and not its volume.
    A case without any such voxel gets the whole image.

    Args:
        nonzero: [1, *S], an array or a file that is read by slicing; 0 inside, -1 outside.
    """
    box = [(0, int(size)) for size in nonzero.shape[1:]]
    for axis, (_, size) in enumerate(box):
        edges = [0, *range(1, size, _SLAB), size]
        upwards = [slice(*pair) for pair in pairwise(edges)]
        downwards = [slice(size - high, size - low) for low, high in pairwise(edges)]
        lowest = next((found[0] for slab in upwards if (found := _inside(nonzero, box, axis, slab))), None)
        if lowest is None:
            return tuple(box)
        highest = next(found[-1] for slab in downwards if (found := _inside(nonzero, box, axis, slab)))
        box[axis] = (lowest, highest + 1)
    return tuple(box)


def _inside(nonzero: Any, box: Sequence[tuple[int, int]], axis: int, slab: slice) -> list[int]:
    """Positions along `axis`, within `slab`, whose slice through the box holds a voxel that is 0."""
    index = [slice(*bounds) for bounds in box]
    index[axis] = slab
    inside = np.asarray(nonzero[(slice(None), *index)]) == 0
    found = inside.any(axis=tuple(dim for dim in range(inside.ndim) if dim != axis + 1))
    return [slab.start + int(position) for position in np.flatnonzero(found)]

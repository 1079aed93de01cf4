"""How much of each labelled case is annotated: the trainer's own way to tell dense from sparse labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from tqdm import tqdm

from nnunetv2_semisup.errors import SemiSupervisedError

DENSE_FROM = 0.9
"""Share of annotated voxels from which a case counts as densely annotated: an uncertain border may be left out."""


_SLAB = 32
"""Slices that are read at once: about the edge of the blocks that nnU-Net's files are compressed in."""


@dataclass(frozen=True)
class Annotated:
    """What the segmentation of one case says.

    Attributes:
        share: of the voxels inside the nonzero region, those that do not bear the ignore label; 0 to 1.
        labels: that occur, background included, the ignore label not.
    """

    share: float
    labels: frozenset[int]


@dataclass(frozen=True)
class Annotation:
    """The labelled cases of a training by how they are annotated.

    Attributes:
        shares: of annotated voxels, by case; empty where nothing had to be read, since every case is complete.
        sparse: the sparse cases, sorted. All others are dense.
        without_background: the sparse cases in which no background is annotated, sorted.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    sparse: tuple[str, ...] = ()
    without_background: tuple[str, ...] = ()


def read_annotated(folder: Path, identifiers: Sequence[str], ignore_label: int) -> dict[str, Annotated]:
    """Read the preprocessed segmentations of these cases, one at a time.

    Args:
        folder: in which stock nnU-Net preprocessed them.
        identifiers: of the cases.
        ignore_label: the value of voxels without annotation. Negative ones lie outside the nonzero region.
    """
    dataset = infer_dataset_class(str(folder))(str(folder), list(identifiers))
    found = {}
    for identifier in tqdm(identifiers, desc="annotated voxels", disable=None, leave=False):
        counts = _counts(dataset.load_case(identifier)[1], ignore_label)
        known = frozenset(map(int, np.flatnonzero(counts[:ignore_label])))
        found[identifier] = Annotated(float(counts[:ignore_label].sum() / max(counts.sum(), 1)), known)
    return found


def _counts(segmentation: Any, highest: int) -> npt.NDArray[np.int64]:
    """How many voxels have each label from 0 to `highest`; read slab by slab, so that a large case takes no memory."""
    counts = np.zeros(highest + 1, np.int64)
    for first in range(0, segmentation.shape[1], _SLAB):
        slab = np.asarray(segmentation[:, first : first + _SLAB])
        counts += np.bincount(slab[slab >= 0], minlength=highest + 1)
    return counts


def sort_by_annotation(
    annotated: Mapping[str, Annotated],
    named_dense: Sequence[str] | None = None,
    named_sparse: Sequence[str] | None = None,
) -> Annotation:
    """Dense are the cases with a share of at least DENSE_FROM, and sparse the others, unless a split names them.

    Args:
        annotated: of every labelled case.
        named_dense: cases that the split calls dense; None: it names none.
        named_sparse: cases that it calls sparse.

    Raises:
        SemiSupervisedError: a case without an annotated voxel; a complete case that the split calls sparse; no dense
            case.
    """
    for identifier, case in annotated.items():
        if not case.labels:
            raise SemiSupervisedError(
                f"the labelled case {identifier} has no annotated voxel; annotate some, or move its image to imagesUn"
            )
    if complete := sorted(case for case in named_sparse or () if annotated[case].share == 1):
        raise SemiSupervisedError(
            f"the split names {complete[0]} sparse, but every voxel of it is annotated; name it dense, or thin its "
            "labels with nnUNetv2_semisup sparsify and preprocess again"
        )
    chosen = {identifier: case.share >= DENSE_FROM for identifier, case in annotated.items()}
    chosen |= dict.fromkeys(named_dense or (), True) | dict.fromkeys(named_sparse or (), False)
    sparse = sorted(identifier for identifier, dense in chosen.items() if not dense)
    if len(sparse) == len(chosen):
        best = max(sparse, key=lambda identifier: annotated[identifier].share)
        raise SemiSupervisedError(
            f"no labelled case is annotated densely, in at least {DENSE_FROM:.0%} of its voxels (most has {best}, "
            f"{annotated[best].share:.1%}), and the teacher learns from dense cases alone; annotate one, or name it "
            "in the list dense of a split file"
        )
    return Annotation(
        {identifier: case.share for identifier, case in sorted(annotated.items())},
        tuple(sparse),
        tuple(identifier for identifier in sparse if 0 not in annotated[identifier].labels),
    )


def labels_of(annotated: Mapping[str, Annotated], identifiers: Sequence[str]) -> frozenset[int]:
    """The labels that occur in any of these cases."""
    return frozenset().union(*(annotated[identifier].labels for identifier in identifiers))


def complete(identifiers: Sequence[str]) -> dict[str, Annotated]:
    """What is known of labelled cases in a dataset without an ignore label, unread: all of their voxels count."""
    return {identifier: Annotated(1.0, frozenset({0})) for identifier in identifiers}


def refuse_ignore_label(dataset_json: Mapping[str, Any]) -> None:
    """Raise SemiSupervisedError where the ignore label is not the integer behind the highest label, as nnU-Net asks."""
    labels = dict(dataset_json["labels"])
    ignore = labels.pop("ignore", None)
    if ignore is None:
        return
    values = [value for label in labels.values() for value in (label if isinstance(label, list | tuple) else [label])]
    expected = max(map(int, values)) + 1
    if ignore != expected or isinstance(ignore, bool):
        raise SemiSupervisedError(
            f"dataset.json says ignore: {ignore!r}, but nnU-Net wants the integer behind the highest label, here "
            f"{expected}; change it there and in the label files, and type nnUNetv2_plan_and_preprocess again"
        )

"""What is to be measured in a label file: nnU-Net's foreground labels or regions, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_semisup.data.structures import structures_of

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Structures:
    """The structures of a dataset, in dataset.json's order."""

    names: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]
    """Values in the label file that make up each; regions share values."""
    ignore: int | None
    """Voxels of the truth with this value do not count."""
    values: tuple[int, ...]
    """What a segmentation may hold."""

    @classmethod
    def of(cls, dataset_json: Mapping[str, Any]) -> Structures:
        """From dataset.json, read as nnU-Net reads it."""
        manager = LabelManager(dict(dataset_json["labels"]), dataset_json.get("regions_class_order"))
        names = {_values(value): name for name, value in dataset_json["labels"].items()}
        labels = tuple(_values(structure) for structure in structures_of(manager))
        ignore = None if manager.ignore_label is None else int(manager.ignore_label)
        return cls(tuple(names[value] for value in labels), labels, ignore, tuple(map(int, manager.all_labels)))

    def masks(self, segmentation: Labels) -> list[Mask]:
        """One mask a structure."""
        return [np.isin(segmentation, labels) for labels in self.labels]


def _values(label: int | list[int] | tuple[int, ...]) -> tuple[int, ...]:
    return (int(label),) if isinstance(label, int | np.integer) else tuple(int(value) for value in label)

"""What is compared, as plain data: a run is one fold of one training, or a folder of segmentations from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunetv2_semisup.training.cost import Cost

BASELINE = "nnUNetTrainerLabeledOnly"
"""The trainer that every difference is taken to."""
ALL = "all"
"""The label count of a run in which no training case has lost its label."""


@dataclass(frozen=True)
class Training:
    """What a finished training says of itself."""

    trainer: str
    dataset: str
    fold: str
    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    val: tuple[str, ...]
    labels: int | str
    """How many cases are labelled, or ALL."""
    labeled_samples: int
    """Labelled patches in all training steps."""
    settings: Mapping[str, Any]
    """Resolved, by dotted key."""
    plan: Mapping[str, Any]
    """What must be equal for two runs to be comparable, by the key that --allow-different takes."""
    data_identifier: str
    """Of the preprocessed data."""
    cost: Cost | None
    """None where the run left no account of it."""
    initial_weights: Mapping[str, Any] | None = None
    """Those it began with, as its checkpoint says; None: fresh ones."""
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """nnU-Net's log: one value an epoch."""


@dataclass(frozen=True)
class Run:
    """One folder of segmentations and where they come from."""

    name: str
    """As it is called in messages: enough of its path to find it."""
    method: str
    """The trainer without its prefix, or the name of a folder of segmentations."""
    predictions: Path
    seed: int | None
    training: Training | None
    """None for segmentations from elsewhere."""
    checkpoint: str | None = None
    """Name of the checkpoint that made the segmentations, where that was recorded."""
    epoch: int | None = None
    """How many epochs it had been trained for, where that was recorded."""
    named: bool = False
    """Whether it was itself named as RUN, and not found in a folder that was."""

    @property
    def is_baseline(self) -> bool:
        """Whether it is a training with the labelled cases alone."""
        return self.training is not None and self.training.trainer == BASELINE


@dataclass(frozen=True)
class Refused:
    """A run that is not in the table, and why."""

    name: str
    reason: str


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted key.

    >>> flat({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return result

"""Settings that nnU-Net keeps as attributes of the trainer, under the same names."""

from __future__ import annotations

from typing import Any

from nnunetv2_semisup.configuration.settings import TrainingSettings

_NAMES = ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "initial_lr", "save_every")


def apply_settings(trainer: Any, training: TrainingSettings) -> None:
    """Set the attributes; "auto" leaves what the class or a subclass says."""
    for name in _NAMES:
        value = getattr(training, name)
        if value != "auto":
            setattr(trainer, name, value)


def applied_settings(trainer: Any) -> dict[str, Any]:
    """What the attributes say, by name."""
    return {name: getattr(trainer, name) for name in _NAMES}

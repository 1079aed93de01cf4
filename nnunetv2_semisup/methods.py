"""METHOD <-> trainer: the list of methods is the list of modules in `trainers/`, and nothing else registers them."""

from __future__ import annotations

import importlib
import pkgutil

from nnunetv2_semisup import trainers
from nnunetv2_semisup.errors import SemiSupervisedError

PREFIX = "nnUNetTrainer"


def trainer_names() -> list[str]:
    """Class names of all trainers, sorted. Each is the only trainer of a module of its own name.

    Imports none of them, so this takes milliseconds.
    """
    return sorted(module.name for module in pkgutil.iter_modules(trainers.__path__) if module.name.startswith(PREFIX))


def methods() -> dict[str, str]:
    """METHOD -> class name, for every trainer.

    >>> methods()["labeledonly"]
    'nnUNetTrainerLabeledOnly'
    """
    return {method_of(name): name for name in trainer_names()}


def method_of(trainer_name: str) -> str:
    """METHOD of a trainer's class name: lower case, without the prefix; `plans/METHOD.toml` is its preset.

    >>> method_of("nnUNetTrainerMIReg")
    'mireg'
    """
    return trainer_name.removeprefix(PREFIX).lower()


def trainer_class(name: str) -> type:
    """The class of a trainer, imported from its module.

    Raises SemiSupervisedError for a name that `trainer_names` does not list.
    """
    if name not in trainer_names():
        raise SemiSupervisedError(f"there is no trainer {name}; known are: {', '.join(trainer_names())}")
    cls = getattr(importlib.import_module(f"{trainers.__name__}.{name}"), name)
    assert isinstance(cls, type)
    return cls

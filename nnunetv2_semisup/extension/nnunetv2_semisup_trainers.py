"""What nnU-Net finds when `nnUNet_extTrainer` names this folder: the trainers of the installed package.

nnU-Net imports this file as a top-level module, asks it for one class, and forgets it again. The classes belong to
`nnunetv2_semisup.trainers`, so they pickle and stay the same objects however often nnU-Net looks. Each is imported
when it is asked for: a lookup that passes through here on its way to someone else's trainer costs nothing.
"""

from nnunetv2_semisup.methods import trainer_class, trainer_names

__all__ = trainer_names()


def __getattr__(name: str) -> type:
    if name in __all__:
        return trainer_class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

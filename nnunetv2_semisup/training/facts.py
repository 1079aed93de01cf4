"""What regularizers may know of a training, read off nnU-Net's trainer."""

from __future__ import annotations

from typing import Any

from nnunetv2_semisup.networks.features import Levels
from nnunetv2_semisup.regularizers.base import Facts


def facts_of(trainer: Any) -> Facts:
    """The facts of a trainer whose network exists."""
    _, _, _, mirror_axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    patch_size = tuple(int(size) for size in trainer.configuration_manager.patch_size)
    labels = trainer.label_manager
    return Facts(
        levels=Levels.of(trainer.network),
        patch_size=patch_size,
        spacing=tuple(trainer.configuration_manager.spacing[-len(patch_size) :]),
        batch_size=int(trainer.batch_size),
        has_regions=labels.has_regions,
        mirror_axes=tuple(mirror_axes or ()),
        ignore_label=labels.ignore_label,
        regions=tuple(map(_members, labels.foreground_regions)) if labels.has_regions else (),
    )


def _members(region: int | tuple[int, ...]) -> tuple[int, ...]:
    return (region,) if isinstance(region, int) else tuple(region)

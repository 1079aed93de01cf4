"""Levels of the network whose features a method reads, and windows on them."""

from __future__ import annotations

from collections.abc import Sequence

from nnunetv2_semisup.configuration.settings import Auto
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.regularizers.base import Facts, Outline

BOTTLENECK = 0
"""The deepest level. Decoder stages are counted from the last one, -1."""


def refuse_missing_taps(key: str, taps: Sequence[int], outline: Outline) -> None:
    """Raise SemiSupervisedError where a tap, the value of the setting `key`, is no level of this network."""
    stages = len(outline.level_voxels) - 1
    for tap in taps:
        if not -stages <= tap <= BOTTLENECK:
            raise SemiSupervisedError(
                f"{key}: {tap} is not allowed for this network; allowed are 0 (bottleneck) and {-stages} to -1 "
                "(decoder stages)"
            )


def refuse_other_axes(key: str, radius: Sequence[int] | Auto, outline: Outline) -> None:
    """Raise SemiSupervisedError where a radius, the value of the setting `key`, is of other axes than the patch."""
    axes = len(outline.patch_size)
    if radius != "auto" and len(radius) != axes:
        raise SemiSupervisedError(
            f"{key} = {list(radius)} is not allowed: the patch has {axes} axes; give {axes} numbers"
        )


def spacing_at(tap: int, facts: Facts) -> list[float]:
    """Millimetres per axis between the voxels of a level."""
    return [mm * stride for mm, stride in zip(facts.spacing, facts.levels.strides[tap], strict=True)]


def window_radius(voxels: int, spacing: Sequence[float]) -> list[int]:
    """Radius per axis that reaches as far in millimetres as `voxels` do along the finest axis, in whole voxels.

    >>> window_radius(2, (6.0, 1.5, 1.5))
    [0, 2, 2]
    """
    return [round(voxels * min(spacing) / s) for s in spacing]

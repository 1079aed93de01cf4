"""Cells of a patch as a method's second level: the setting, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field

from nnunetv2_semisup.configuration.settings import Auto, Section
from nnunetv2_semisup.data.cells import Cell, cells_per_axis, place_cells
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.regularizers.base import Outline


class CellsSettings(Section):
    """Cells of a patch."""

    per_axis: list[Annotated[int, Field(ge=1, le=2)]] | Auto = Field(
        description="Cells per axis, 1 or 2. Their edges are multiples of the network's stride and at least half of "
        'the patch, so that they may overlap. "auto": 2, but 1 along an axis where the patch is less than a third of '
        "its longest edge."
    )

    def resolved(self, patch_size: Sequence[int]) -> Self:
        """With numbers for a patch of this size."""
        return self.model_copy(update={"per_axis": self._per_axis(patch_size)})

    def place(self, patch_size: Sequence[int], stride: Sequence[int]) -> tuple[Cell, ...]:
        """By `place_cells`."""
        return place_cells(patch_size, stride, self._per_axis(patch_size))

    def check(self, outline: Outline) -> tuple[Cell, ...]:
        """The cells of a training's patches.

        Raises SemiSupervisedError where there are none that a network could be shown beside the patch.
        """
        patch_size, stride = outline.patch_size, outline.level_strides[0]
        per_axis = self._per_axis(patch_size)
        if len(per_axis) != len(patch_size):
            raise SemiSupervisedError(
                f"cells.per_axis = {per_axis} is not allowed: a patch has {len(patch_size)} axes, each needs one"
            )
        given = f"a patch of {boxed(patch_size)} voxels and a network of stride {boxed(stride)}"
        if any(size % step for size, step in zip(patch_size, stride, strict=True)):
            raise SemiSupervisedError(
                f"{given} cannot be divided into cells, since the patch is no multiple of the stride; change its size "
                "in the plans"
            )
        cells = self.place(patch_size, stride)
        if len(cells) == 1:
            raise SemiSupervisedError(
                f"{given} leave a single cell, the patch itself, with cells.per_axis = {per_axis}; use 2 along an axis "
                "of at least twice the stride, or plan with larger patches"
            )
        if math.prod(edge // step for edge, step in zip(cells[0].edge, stride, strict=True)) == 1:
            raise SemiSupervisedError(
                f"{given} leave cells of {boxed(cells[0].edge)} voxels, one voxel at the bottleneck, which instance "
                "normalisation refuses; set cells.per_axis to 1 along an axis, or plan with larger patches"
            )
        return cells

    def _per_axis(self, patch_size: Sequence[int]) -> Sequence[int]:
        return cells_per_axis(patch_size) if self.per_axis == "auto" else self.per_axis


def boxed(size: Sequence[int]) -> str:
    """A size in words.

    >>> boxed((24, 40, 48))
    '24 x 40 x 48'
    """
    return " x ".join(map(str, size))

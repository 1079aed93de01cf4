"""Boxes of one patch pasted into another, on the device, for images, targets and masks alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """For each sample of a batch, which voxels stay and what takes the place of the others.

    Attributes:
        own: bool [B, 1, *S], True where the sample's own voxels stay.
        partner: for each sample, the index of the unlabelled sample that fills the rest; where `labeled`, that of the
            labelled one.
        labeled: for each sample, whether a labelled sample fills the rest.
    """

    own: Tensor
    partner: tuple[int, ...]
    labeled: tuple[bool, ...]

    def __call__(self, unlabeled: Tensor, labeled: Tensor) -> Tensor:
        """Mix maps [B, C, *S] of the unlabelled batch with each other and with those [L, C, *S] of the labelled one.

        The same for images, targets and masks; the result has the dtype of `unlabeled`.
        """
        others = [
            (labeled if from_labeled else unlabeled)[index].to(unlabeled.dtype)
            for index, from_labeled in zip(self.partner, self.labeled, strict=True)
        ]
        return torch.where(self.own, unlabeled, torch.stack(others))

    def valid(self, unlabeled: Tensor | None, labeled: Tensor) -> Tensor:
        """Where mixed patches count: masks [B, 1, *S], None for everywhere, and [L, 1, *S], mixed."""
        return self(torch.ones_like(self.own) if unlabeled is None else unlabeled, labeled)


def draw_mix(
    batch_size: int,
    labeled: Sequence[int],
    spatial_shape: Sequence[int],
    generator: torch.Generator,
    device: torch.device,
    *,
    share: float,
    exchange: float,
    edge: float,
) -> Mix:
    """Draw for each unlabelled sample whether, with what and where it is mixed.

    Yun et al., CutMix, ICCV 2019: a box of another unlabelled sample. Bai et al., BCP, CVPR 2023: a box is exchanged
    with a labelled sample, in both directions: its box in the unlabelled patch, or, as often, the box of the
    unlabelled patch in it. A batch of one unlabelled sample can be mixed with labelled ones only, and without labelled
    ones there are boxes of unlabelled ones only.

    Args:
        batch_size: B, unlabelled.
        labeled: rows of the labelled batch that may be partners.
        spatial_shape: of the patches, in voxels.
        generator: on the CPU; the only source of randomness.
        device: of the result.
        share: probability that a sample is mixed, in [0, 1].
        exchange: probability that the partner of a mixed sample is a labelled one, in [0, 1].
        edge: edges of the box as a share of the patch's, in (0, 1).
    """
    own = torch.ones(batch_size, 1, *spatial_shape, dtype=torch.bool)
    partner, from_labeled = [], []
    for index in range(batch_size):
        mixed, exchanged, inside = (torch.rand(3, generator=generator) < torch.tensor([share, exchange, 0.5])).tolist()
        exchanged = exchanged and len(labeled) > 0
        if mixed and (exchanged or batch_size > 1):
            own[index][_draw_box(spatial_shape, edge, generator)] = False
            if exchanged and inside:
                own[index].logical_not_()
        partner.append(labeled[index % len(labeled)] if exchanged else (index + 1) % batch_size)
        from_labeled.append(exchanged)
    return Mix(own.to(device), tuple(partner), tuple(from_labeled))


def _draw_box(shape: Sequence[int], edge: float, generator: torch.Generator) -> tuple[slice, ...]:
    """A box somewhere in the patch, behind one axis of channels."""
    box = [slice(None)]
    for size in shape:
        length = max(round(edge * size), 1)
        start = int(torch.randint(size - length + 1, (), generator=generator))
        box.append(slice(start, start + length))
    return tuple(box)

"""Pre-training by dense InfoNCE: a voxel shall be more like itself in another view than like other voxels."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2_semisup.trainers.nnUNetTrainerBIMPretrain import nnUNetTrainerBIMPretrain
from torch import Tensor, nn

from nnunetv2_semisup.losses.info_nce import info_nce
from nnunetv2_semisup.regularizers.base import Facts, Outcome, Step
from nnunetv2_semisup.regularizers.bim import BIMPretrain

VOXELS = 256
"""Voxels of an image that are told apart."""
DIMENSIONS = 64
TEMPERATURE = 0.07


class DenseInfoNCE(BIMPretrain):
    """InfoNCE of BIM's two views at BIM's tap, between random voxels that lie inside the image in both.

    The voxels of an image's second view are the negatives of one another. It takes BIM's settings, with
    `boundary.weight` 0; `information.weight` is its weight.
    """

    def __init__(self, settings: Any, facts: Facts) -> None:
        """Build the projection head: two 1x1 convolutions."""
        super().__init__(settings, facts)
        convolution = nn.Conv3d if facts.dim == 3 else nn.Conv2d
        channels = facts.levels.channels[settings.clusters.tap]
        layers = convolution(channels, DIMENSIONS, 1), nn.LeakyReLU(0.01), convolution(DIMENSIONS, DIMENSIONS, 1)
        self.heads = nn.ModuleList([nn.Sequential(*layers)])

    def forward(self, step: Step) -> Outcome:
        """BIM's, with one term. It and all signs of life are the loss: BIM's mean nothing here."""
        self._generator = step.generator
        return super().forward(step)

    def _compare(self, head: nn.Module, moved: Tensor, features: Tensor, valid: Tensor, **_: Any) -> tuple[Tensor, ...]:
        # Invalid ones are drawn where there are too few, and do not count.
        shares = valid.flatten(1).float().cpu() + 1e-6
        index = torch.multinomial(shares, VOXELS, generator=self._generator).to(features.device)
        with torch.autocast(features.device.type, enabled=False):
            first, second = (self._at(head, x.float(), index) for x in (moved, features))
        apart = ~torch.eye(VOXELS, dtype=torch.bool, device=features.device)
        known = valid.flatten(1).gather(1, index)
        loss = info_nce(first, second, second, apart, TEMPERATURE, valid=known)
        sign = loss.detach()
        return loss, loss.new_zeros(()), *(sign,) * 4

    def _at(self, head: nn.Module, maps: Tensor, index: Tensor) -> Tensor:
        """Embeddings [B, N, D] of maps [B, C, *S] at N voxels."""
        vectors = maps.flatten(2).gather(2, index[:, None].expand(-1, maps.shape[1], -1))
        return head(vectors.reshape(*vectors.shape, *(1,) * (maps.ndim - 3))).flatten(2).transpose(1, 2)

    def alarms(self, signs: Any) -> list[str]:
        """None: there are no clusters."""
        return []


class nnUNetTrainerDenseInfoNCE(nnUNetTrainerBIMPretrain):
    """Dense InfoNCE as a pre-training, with the data, views, optimiser and schedule of BIM's."""

    regularizers = (DenseInfoNCE,)

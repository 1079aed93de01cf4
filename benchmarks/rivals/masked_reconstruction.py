"""Pre-training by reconstruction of masked parts of the image: the cheap alternative of the field to BIM."""

from __future__ import annotations

import math
from typing import Any

import torch
from nnunetv2_semisup.trainers.nnUNetTrainerBIMPretrain import nnUNetTrainerBIMPretrain
from torch import nn
from torch.nn import functional as F

from nnunetv2_semisup.losses.masking import masked_mean
from nnunetv2_semisup.regularizers.base import Facts, Outcome, Step
from nnunetv2_semisup.regularizers.bim import BIMPretrain

BLOCK = 8
"""Voxels per axis of a block that is masked or not; fewer where the patch is flat."""
HIDDEN = 0.6
"""Share of the blocks that are masked."""


class MaskedReconstruction(BIMPretrain):
    """Mean squared error of the masked voxels, predicted by a 1x1 convolution of BIM's tap.

    Masked voxels are 0, the mean of an image that nnU-Net has normalised. It takes BIM's settings, of which it uses
    `clusters.tap` and `information.weight`.
    """

    views = ("stock",)
    gradient_views = 1
    sign_names = ("error",)

    def __init__(self, settings: Any, facts: Facts) -> None:
        """Build the head."""
        super().__init__(settings, facts)
        convolution = nn.Conv3d if facts.dim == 3 else nn.Conv2d
        self.heads = nn.ModuleList([convolution(facts.levels.channels[settings.clusters.tap], 1, 1)])

    @property
    def weights(self) -> dict[str, float]:
        """One term."""
        return {"reconstruction": self.settings.information.weight}

    def forward(self, step: Step) -> Outcome:
        """Mask blocks, predict the first channel, compare where it was masked."""
        (image,) = step.views
        blocks = [math.ceil(size / BLOCK) for size in image.shape[2:]]
        hidden = torch.rand(len(image), 1, *blocks, generator=step.generator).to(image.device) < HIDDEN
        hidden = F.interpolate(hidden.float(), size=image.shape[2:], mode="nearest").bool()
        _, (features,) = step.student(image.masked_fill(hidden, 0), [self.settings.clusters.tap])
        with torch.autocast(image.device.type, enabled=False):
            predicted = self.heads[0](features.float())
        where = hidden if step.valid is None else hidden & step.valid
        error = masked_mean((predicted - image[:, :1].float()).square(), where)
        return Outcome({"reconstruction": error}, {"error": error.detach()})

    def alarms(self, signs: Any) -> list[str]:
        """None."""
        return []


class nnUNetTrainerMaskedReconstruction(nnUNetTrainerBIMPretrain):
    """Reconstruction of masked blocks as a pre-training, with the data, optimiser and schedule of BIM's."""

    regularizers = (MaskedReconstruction,)

"""Uncertainty-aware mean teacher (Yu et al. 2019): agree with the teacher where it is sure."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from nnunetv2_semisup.configuration.settings import Count, Section, Share, Weight
from nnunetv2_semisup.data.geometry import draw_geometry
from nnunetv2_semisup.losses.consistency import mse_consistency
from nnunetv2_semisup.losses.entropy import shannon_entropy
from nnunetv2_semisup.losses.masking import masked_mean
from nnunetv2_semisup.regularizers.base import Outcome, Step
from nnunetv2_semisup.regularizers.meanteacher import MeanTeacher, MeanTeacherSettings
from nnunetv2_semisup.regularizers.ramp import gaussian_ramp
from nnunetv2_semisup.regularizers.signs import AGREEMENT, agreement, foreground_alarm


class UncertaintySettings(Section):
    """How the teacher's uncertainty is estimated, and which voxels count."""

    passes: Count = Field(description="Teacher passes T that differ by noise on the image and flips.")
    noise: Weight = Field(description="Standard deviation of the noise, in units of the normalised image.")
    start: Share = Field(
        description="Entropy of the mean prediction below which a voxel counts, as share of log C, "
        "at the start of the training."
    )
    end: Share = Field(description="The same at its end.")


class UAMTSettings(MeanTeacherSettings):
    """Settings of nnUNetTrainerUAMT."""

    uncertainty: UncertaintySettings


class UAMT(MeanTeacher):
    """Mean squared difference to an EMA teacher on the voxels where T noisy teacher passes agree.

    Yu et al., "Uncertainty-aware self-ensembling model", MICCAI 2019, equations 2 to 4. Uncertainty is the entropy of
    the mean of the passes; the threshold rises from `start` to `end` of its maximum by the Gaussian ramp. Departures:
    nnU-Net's networks have no dropout, so the passes differ by noise and flips; with regions the entropy is binary, per
    region, and a region counts where it is certain by itself.
    """

    Settings = UAMTSettings
    sign_names = (*AGREEMENT, "certain")

    def forward(self, step: Step) -> Outcome:
        """The difference to the teacher's plain answer on the certain voxels."""
        first, second = step.views
        assert step.teacher is not None  # asked for
        target_logits, _ = step.teacher(first, ())
        certain = self._uncertainty(step) < self._threshold(step.progress)
        counted = certain if step.valid is None else certain & step.valid
        logits, _ = step.student(second, ())
        p, target = self.facts.probabilities(logits), self.facts.probabilities(target_logits)
        signs = agreement(self.facts, logits, target_logits, step.valid)
        signs["certain"] = masked_mean(certain.float(), step.valid)
        return Outcome({"consistency": mse_consistency(p, target, counted)}, signs)

    def _uncertainty(self, step: Step) -> Tensor:
        """Entropy of the mean prediction as share of its maximum: [B, 1, *spatial], with regions [B, C, *spatial]."""
        assert step.teacher is not None
        image, uncertainty = step.views[0], self.settings.uncertainty
        mean = torch.zeros(())
        for _ in range(uncertainty.passes):
            noise = torch.randn(image.shape, generator=step.generator).to(image) * uncertainty.noise
            flips = draw_geometry(len(image), image.shape[2:], step.generator, mirror_axes=self.facts.mirror_axes)
            p = self.facts.probabilities(step.teacher(flips(image + noise), ())[0])
            mean = mean.to(p) + flips.inverse(p) / uncertainty.passes
        if self.facts.has_regions:
            return shannon_entropy(torch.stack([mean, 1 - mean]), dim=0) / math.log(2)
        return shannon_entropy(mean)[:, None] / math.log(mean.shape[1])

    def _threshold(self, progress: float) -> float:
        """From start to end by the Gaussian ramp."""
        uncertainty = self.settings.uncertainty
        return float(uncertainty.start + (uncertainty.end - uncertainty.start) * gaussian_ramp(progress))

    def alarms(self, signs: Mapping[str, float]) -> list[str]:
        """Collapse, and a teacher that is sure of nothing."""
        found = foreground_alarm(signs["foreground"], "lower consistency.weight")
        if signs["certain"] == 0:
            found.append("the teacher is certain of no voxel, so nothing is learnt from it: raise uncertainty.start")
        return found

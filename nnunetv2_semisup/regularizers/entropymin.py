"""Entropy minimisation (Grandvalet & Bengio 2005): the network shall be sure of what it sees without labels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from nnunetv2_semisup.configuration.settings import Section, SemiSupervisedSettings, Weight
from nnunetv2_semisup.losses.entropy import entropy_loss
from nnunetv2_semisup.losses.masking import masked_mean
from nnunetv2_semisup.regularizers.base import Outcome, Regularizer, Step

MOST_FOREGROUND = 0.95
"""Share of predicted foreground above which a training counts as collapsed: images have some background."""


class EntropySettings(Section):
    """Certainty of the prediction."""

    weight: Weight = Field(description="Weight of the mean entropy of the prediction, as a share of its maximum.")


class EntropyMinSettings(SemiSupervisedSettings):
    """Settings of nnUNetTrainerEntropyMin."""

    entropy: EntropySettings


class EntropyMin(Regularizer):
    """Mean entropy of the network's own prediction on unlabelled patches, to be minimised.

    Grandvalet & Bengio, "Semi-supervised learning by entropy minimization", NIPS 17 (2005): the conditional entropy of
    the labels given unlabelled inputs. Departures: those of `entropy_loss`, and a weight that grows by the schedule,
    since the gradient only strengthens whatever answer the network gives at the time.
    """

    Settings = EntropyMinSettings
    views = 1
    gradient_views = 1
    sign_names = ("foreground", "confidence")

    @property
    def weights(self) -> Mapping[str, float]:
        """One term."""
        return {"entropy": self.settings.entropy.weight}

    def forward(self, step: Step) -> Outcome:
        """The entropy of the prediction on the first view; another method may have asked for more of them."""
        logits, _ = step.student(step.views[0], ())
        entropy = entropy_loss(logits, step.valid, regions=self.facts.has_regions)
        return Outcome({"entropy": entropy}, self._signs(logits.detach(), step.valid))

    def _signs(self, logits: Tensor, valid: Tensor | None) -> dict[str, Tensor]:
        """Share of predicted foreground, and mean probability of the answer given, both without the padding."""
        p = self.facts.probabilities(logits)
        answer = torch.maximum(p, 1 - p) if self.facts.has_regions else p.amax(dim=1, keepdim=True)
        foreground = self.facts.foreground(logits).float()
        return {"foreground": masked_mean(foreground, valid), "confidence": masked_mean(answer, valid)}

    def alarms(self, signs: Mapping[str, float]) -> list[str]:
        """The trivial minimum of the entropy is one and the same answer everywhere."""
        foreground = signs["foreground"]
        if foreground == 0:
            seen = "The network predicts no foreground at all on the unlabelled patches"
        elif foreground > MOST_FOREGROUND:
            seen = f"The network predicts foreground in {foreground:.0%} of the unlabelled voxels"
        else:
            return []
        sure = f"with a mean confidence of {signs['confidence']:.2f}"
        return [f"{seen}, {sure}. Unless the images are like that, it has collapsed: lower entropy.weight."]

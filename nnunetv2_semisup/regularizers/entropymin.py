"""Entropy minimisation (Grandvalet & Bengio 2005): the network shall be sure of what it sees without labels."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from nnunetv2_semisup.configuration.settings import Section, SemiSupervisedSettings, Weight
from nnunetv2_semisup.losses.entropy import entropy_loss
from nnunetv2_semisup.regularizers.base import Outcome, Regularizer, Step
from nnunetv2_semisup.regularizers.signs import foreground_alarm, foreground_share, mean_confidence


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
    views = ("stock",)
    sign_names = ("foreground", "confidence")

    @property
    def weights(self) -> Mapping[str, float]:
        """One term."""
        return {"entropy": self.settings.entropy.weight}

    def forward(self, step: Step) -> Outcome:
        """The entropy of the prediction."""
        logits, _ = step.student(step.views[0], ())
        entropy = entropy_loss(logits, step.valid, regions=self.facts.has_regions)
        signs = {
            "foreground": foreground_share(self.facts, logits.detach(), step.valid),
            "confidence": mean_confidence(self.facts, logits.detach(), step.valid),
        }
        return Outcome({"entropy": entropy}, signs)

    def alarms(self, signs: Mapping[str, float]) -> list[str]:
        """The trivial minimum of the entropy is one and the same answer everywhere."""
        return foreground_alarm(signs["foreground"], "lower entropy.weight")

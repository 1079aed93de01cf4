"""Cross pseudo supervision (Chen et al. 2021): two networks label the unlabelled images for each other."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from nnunetv2_semisup.configuration.settings import Section, SemiSupervisedSettings, Weight
from nnunetv2_semisup.losses.cross_entropy import cross_entropy
from nnunetv2_semisup.regularizers.base import Outcome, Regularizer, Step
from nnunetv2_semisup.regularizers.signs import AGREEMENT, agreement, foreground_alarm


class CrossSettings(Section):
    """What the networks learn from each other."""

    weight: Weight = Field(description="Weight of the two cross-entropies together.")


class CPSSettings(SemiSupervisedSettings):
    """Settings of nnUNetTrainerCPS."""

    cross: CrossSettings


class CPS(Regularizer):
    """The sum of both networks' cross-entropies against the other's hard answers.

    Chen et al., "Semi-supervised semantic segmentation with cross pseudo supervision", CVPR 2021, equations 2 to 4. The
    second network has the same plans and other initial weights; nnU-Net's loss, optimiser and schedule train it on the
    labelled patches. The first is the one that predicts. Departures: on unlabelled patches alone; without the paper's
    CutMix variant, which is FixMatch's part here.
    """

    Settings = CPSSettings
    views = ("stock",)
    needs_peer = True
    sign_names = AGREEMENT

    @property
    def weights(self) -> Mapping[str, float]:
        """One term."""
        return {"cross": self.settings.cross.weight}

    def forward(self, step: Step) -> Outcome:
        """Both networks see the same view."""
        assert step.peer is not None  # asked for
        (view,) = step.views
        first, _ = step.student(view, ())
        second, _ = step.peer(view, ())
        regions = self.facts.has_regions
        pairs = ((first, second), (second, first))
        terms = [
            cross_entropy(logits, self.facts.answer(other.detach()), step.valid, regions=regions)
            for logits, other in pairs
        ]
        return Outcome({"cross": terms[0] + terms[1]}, agreement(self.facts, first, second, step.valid))

    def alarms(self, signs: Mapping[str, float]) -> list[str]:
        """Collapse of the first network."""
        return foreground_alarm(signs["foreground"], "lower cross.weight")

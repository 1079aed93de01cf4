"""Mutual-information regularisation (Peng et al. 2021, MELBA 2021:009) beside output consistency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from nnunetv2_semisup.configuration.settings import Section, SemiSupervisedSettings, Weight
from nnunetv2_semisup.data.geometry import draw_geometry
from nnunetv2_semisup.data.mixing import Mix
from nnunetv2_semisup.data.views import View
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.losses.consistency import mse_consistency
from nnunetv2_semisup.regularizers.base import Facts, Outcome, Regularizer, Step
from nnunetv2_semisup.regularizers.feature_information import BOTTLENECK, FeatureInformation, MISettings
from nnunetv2_semisup.regularizers.mixing import MixingSettings
from nnunetv2_semisup.regularizers.pseudo_labels import TERMS, PseudoLabels, PseudoLabelSettings, pseudo_label_terms
from nnunetv2_semisup.regularizers.signs import AGREEMENT, agreement, foreground_alarm
from nnunetv2_semisup.regularizers.teacher import EMATeacherSettings

Output = tuple[Tensor, Sequence[Tensor]]


class ConsistencySettings(Section):
    """Agreement of the outputs under a geometric transform."""

    weight: Weight = Field(description="Weight of the mean squared difference of the probabilities.")


class ViewSettings(Section):
    """How the intensities of the two views are drawn: "plain" not at all, "stock" as nnU-Net, "strong" more often."""

    reference: View = Field(description="Of the view that gives the target.")
    trained: View = Field(description="Of the view that learns from it.")


class TeacherSettings(EMATeacherSettings):
    """What the trained view is compared with."""

    source: Literal["own", "ema"] = Field(
        description='"own": the network\'s own other view (the paper). "ema": an EMA teacher (the paper\'s "MI + MT").'
    )


class MIRegSettings(SemiSupervisedSettings):
    """Settings of nnUNetTrainerMIReg."""

    mi: MISettings
    consistency: ConsistencySettings
    pseudo_label: PseudoLabelSettings
    views: ViewSettings
    mixing: MixingSettings
    teacher: TeacherSettings


class MIReg(Regularizer):
    """Global MI at the bottleneck, local MI at decoder stages, consistency of the output.

    One view goes through the reference network, the other, transformed by T, through the student. Features and
    outputs of the first are transformed by the same T and compared with those of the second. T are flips along the
    axes that nnU-Net mirrors. Where patches are mixed, features are compared on the voxels that both views show.

    Departures from paper and released code are listed in docs/explanation/mireg.md.
    """

    Settings = MIRegSettings

    def __init__(self, settings: MIRegSettings, facts: Facts) -> None:
        """Build one group of cluster heads per tap of positive weight."""
        super().__init__(settings, facts)
        own = settings.teacher.source == "own"
        self.gradient_views = 2 if own else 1
        self.ema_decay = None if own else settings.teacher.decay
        self.information = FeatureInformation(settings.mi, facts)
        outputs = {"consistency": settings.consistency.weight, **settings.pseudo_label.weights}
        self._weights = self.information.weights | outputs
        self.views = (settings.views.reference, settings.views.trained)
        self.sign_names = [*self.information.sign_names, *AGREEMENT]

    @classmethod
    def check(cls, settings: MIRegSettings, n_levels: int, n_structures: int) -> None:
        """Refuse a tap that the network does not have, and a structure that the dataset does not have."""
        settings.pseudo_label.check(n_structures)
        for tap in settings.mi.taps:
            if not -n_levels < tap <= BOTTLENECK:
                raise SemiSupervisedError(
                    f"mi.taps = {settings.mi.taps} is not allowed for this network; allowed are 0 (bottleneck) and "
                    f"{1 - n_levels} to -1 (decoder stages)"
                )

    @classmethod
    def resolve(cls, settings: MIRegSettings, facts: Facts) -> MIRegSettings:
        """Windows from the spacing, structures in one piece from the labelled cases."""
        resolved = {"mi": settings.mi.resolved(facts), "pseudo_label": settings.pseudo_label.resolved(facts)}
        return settings.model_copy(update=resolved)

    @property
    def weights(self) -> Mapping[str, float]:
        """Weights of the MI terms (`mi.weight` split by `mi.shares`), of the consistency and of the pseudo-labels."""
        return self._weights

    def forward(self, step: Step) -> Outcome:
        """Negative MI in nats per tap, the mean squared difference of the probabilities, and the pseudo-label terms."""
        reference, transformed = step.views
        geometry = draw_geometry(
            reference.shape[0], self.facts.patch_size, step.generator, mirror_axes=self.facts.mirror_axes
        )
        trained = geometry(transformed)
        valid = None if step.valid is None else geometry(step.valid)
        mix = self.settings.mixing.draw(step) if self.settings.mixing.share > 0 else None
        if mix is not None:
            trained = mix(trained, step.labeled.images)
        (target_logits, references), (logits, features) = self._outputs(step, reference, trained)
        target_logits = geometry(target_logits.detach())
        shared = valid if mix is None else mix.own if valid is None else mix.own & valid
        terms, signs = self.information(references, features, geometry, shared, step.reduce)
        terms |= self._output_terms(logits, target_logits, valid, mix, step)
        signs |= agreement(self.facts, logits, target_logits, shared)
        return Outcome(terms, signs)

    def _output_terms(
        self, logits: Tensor, target_logits: Tensor, valid: Tensor | None, mix: Mix | None, step: Step
    ) -> dict[str, Tensor]:
        """Consistency and pseudo-label terms of positive weight, of mixed patches against mixed targets."""
        target = self.facts.probabilities(target_logits)
        labels = PseudoLabels.of(self.facts, target_logits, self.settings.pseudo_label)
        if mix is not None:
            truth, known = self.facts.truth(step.labeled.target, target.shape[1])
            target, labels = mix(target, truth), labels.mixed(mix, truth)
            valid = mix.valid(valid, known)
        terms: dict[str, Tensor] = {}
        if any(self._weights[name] > 0 for name in TERMS):
            found = pseudo_label_terms(self.facts, logits, labels, valid, step.reduce)
            terms |= {name: term for name, term in found.items() if self._weights[name] > 0}
        if self._weights["consistency"] > 0:
            terms["consistency"] = mse_consistency(self.facts.probabilities(logits), target, valid)
        return terms

    def _outputs(self, step: Step, reference: Tensor, trained: Tensor) -> tuple[Output, Output]:
        """Logits and features of both views."""
        if step.teacher is not None:
            return step.teacher(reference, self.information.taps), step.student(trained, self.information.taps)
        # In one call: on a CPU, torch convolves a batch of one sample several times slower.
        logits, features = step.student(torch.cat([reference, trained]), self.information.taps)
        n = len(reference)
        return (logits[:n], [feature[:n] for feature in features]), (logits[n:], [feature[n:] for feature in features])

    def alarms(self, signs: Mapping[str, float]) -> list[str]:
        """Collapse of the clusters, and a network that predicts nothing or everything on unlabelled images."""
        collapse = "lower consistency.weight or lengthen schedule.warmup"
        return self.information.alarms(signs) + foreground_alarm(signs["foreground"], collapse)

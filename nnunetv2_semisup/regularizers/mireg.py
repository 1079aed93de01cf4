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
from nnunetv2_semisup.losses.consistency import mse_consistency
from nnunetv2_semisup.regularizers.base import Facts, Outcome, Outline, Regularizer, Step
from nnunetv2_semisup.regularizers.feature_information import FeatureInformation, MISettings
from nnunetv2_semisup.regularizers.mixing import MixingSettings
from nnunetv2_semisup.regularizers.pseudo_labels import TERMS, PseudoLabels, PseudoLabelSettings, pseudo_label_terms
from nnunetv2_semisup.regularizers.signs import AGREEMENT, agreement, foreground_alarm
from nnunetv2_semisup.regularizers.taps import refuse_missing_taps, refuse_other_axes
from nnunetv2_semisup.regularizers.teacher import EMATeacherSettings

Output = tuple[Tensor, Sequence[Tensor]]


class OutputSettings(Section):
    """What ties the segmentation of the two views together."""

    form: Literal["own_view", "mean_teacher", "weak_to_strong"] = Field(
        description='"own_view": consistency with the network\'s own other view (the paper). "mean_teacher": with that '
        'of an EMA teacher (the paper\'s "MI + MT"). "weak_to_strong": a teacher\'s confident answers on a plain view '
        "are labels of a strong one with mixed patches, as in FixMatch."
    )


class ConsistencySettings(Section):
    """Agreement of the outputs under a geometric transform."""

    weight: Weight = Field(
        description='Weight of the mean squared difference of the probabilities, in the forms "own_view" and '
        '"mean_teacher".'
    )


class MIRegSettings(SemiSupervisedSettings):
    """Settings of nnUNetTrainerMIReg. `pseudo_label` and `mixing` are those of the form "weak_to_strong"."""

    mi: MISettings
    output: OutputSettings
    consistency: ConsistencySettings
    pseudo_label: PseudoLabelSettings
    mixing: MixingSettings
    teacher: EMATeacherSettings


class MIReg(Regularizer):
    """Global MI at the bottleneck, local MI at decoder stages, and a term on the output.

    One view goes through the reference network, the other, transformed by T, through the student. Features and
    outputs of the first are transformed by the same T and compared with those of the second. T are flips along the
    axes that nnU-Net mirrors. Where patches are mixed, features are compared on the voxels that both views show.

    Departures from paper and released code are listed in docs/explanation/mireg.md.
    """

    Settings = MIRegSettings

    def __init__(self, settings: MIRegSettings, facts: Facts) -> None:
        """Build one group of cluster heads per tap of positive weight."""
        super().__init__(settings, facts)
        own = settings.output.form == "own_view"
        self.gradient_views = 2 if own else 1
        self.ema_decay = None if own else settings.teacher.decay
        self.is_weak_to_strong = settings.output.form == "weak_to_strong"
        self.views = ("plain", "strong") if self.is_weak_to_strong else ("stock", "stock")
        self.information = FeatureInformation(settings.mi, facts)
        self._weights = self.information.weights | (
            settings.pseudo_label.weights if self.is_weak_to_strong else {"consistency": settings.consistency.weight}
        )
        self.sign_names = [*self.information.sign_names, *AGREEMENT]

    @classmethod
    def check(cls, settings: MIRegSettings, outline: Outline) -> None:
        """Refuse a tap that the network does not have, and a structure that the dataset does not have."""
        settings.pseudo_label.check(outline.n_structures)
        refuse_missing_taps("mi.taps", settings.mi.taps, outline)
        refuse_other_axes("mi.radius", settings.mi.radius, outline)

    @classmethod
    def resolve(cls, settings: MIRegSettings, facts: Facts) -> MIRegSettings:
        """Windows from the spacing, structures in one piece from the labelled cases."""
        resolved: dict[str, Section] = {"mi": settings.mi.resolved(facts)}
        if settings.output.form == "weak_to_strong":
            resolved["pseudo_label"] = settings.pseudo_label.resolved(facts)
        return settings.model_copy(update=resolved)

    @property
    def weights(self) -> Mapping[str, float]:
        """Weights of the MI terms (`mi.weight` split by `mi.shares`), and of the form's terms on the output."""
        return self._weights

    def forward(self, step: Step) -> Outcome:
        """Negative MI in nats per tap, and the form's terms on the output."""
        reference, transformed = step.views
        geometry = draw_geometry(
            reference.shape[0], self.facts.patch_size, step.generator, mirror_axes=self.facts.mirror_axes
        )
        trained = geometry(transformed)
        valid = None if step.valid is None else geometry(step.valid)
        mixes = self.is_weak_to_strong and self.settings.mixing.share > 0
        mix = self.settings.mixing.draw(self.facts, step) if mixes else None
        if mix is not None:
            assert step.labeled is not None  # trains beside supervised training only
            trained = mix(trained, step.labeled.images)
        (target_logits, references), (logits, features) = self._outputs(step, reference, trained)
        target_logits = geometry(target_logits.detach())
        shared = valid if mix is None else mix.own if valid is None else mix.own & valid
        terms, signs = self.information(references, features, geometry, shared, step.reduce)
        if self.is_weak_to_strong:
            terms |= self._pseudo_label_terms(logits, target_logits, valid, mix, step)
        elif self._weights["consistency"] > 0:
            p, target = self.facts.probabilities(logits), self.facts.probabilities(target_logits)
            terms["consistency"] = mse_consistency(p, target, valid)
        signs |= agreement(self.facts, logits, target_logits, shared)
        return Outcome(terms, signs)

    def _pseudo_label_terms(
        self, logits: Tensor, target_logits: Tensor, valid: Tensor | None, mix: Mix | None, step: Step
    ) -> dict[str, Tensor]:
        """Those of positive weight, of mixed patches against mixed labels."""
        wanted = [name for name in TERMS if self._weights[name] > 0]
        if not wanted:
            return {}
        labels = PseudoLabels.of(self.facts, target_logits, self.settings.pseudo_label, valid)
        if mix is not None:
            assert step.labeled is not None  # as above
            truth, known = self.facts.truth(step.labeled.target, logits.shape[1])
            labels, valid = labels.mixed(mix, truth), mix.valid(valid, known)
        found = pseudo_label_terms(self.facts, logits, labels, valid, step.reduce)
        return {name: found[name] for name in wanted}

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
        weights = "pseudo_label.cross_entropy and pseudo_label.dice" if self.is_weak_to_strong else "consistency.weight"
        collapse = f"lower {weights} or lengthen schedule.warmup"
        return self.information.alarms(signs) + foreground_alarm(signs["foreground"], collapse)

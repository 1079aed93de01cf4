"""FixMatch in 3D: a teacher's confident answers on a weak view teach the network on a strong, mixed one."""

from __future__ import annotations

from collections.abc import Mapping

from nnunetv2_semisup.configuration.settings import SemiSupervisedSettings
from nnunetv2_semisup.regularizers.base import Facts, Outcome, Outline, Regularizer, Step
from nnunetv2_semisup.regularizers.mixing import MixingSettings
from nnunetv2_semisup.regularizers.pseudo_labels import PseudoLabelSettings
from nnunetv2_semisup.regularizers.signs import AGREEMENT, agreement, confident_alarm, foreground_alarm
from nnunetv2_semisup.regularizers.teacher import EMATeacherSettings
from nnunetv2_semisup.regularizers.weak_to_strong import learn_from_plain_view


class FixMatchSettings(SemiSupervisedSettings):
    """Settings of nnUNetTrainerFixMatch."""

    pseudo_label: PseudoLabelSettings
    mixing: MixingSettings
    teacher: EMATeacherSettings


class FixMatch(Regularizer):
    """Confidence-masked weak-to-strong learning with mixed patches.

    Sohn et al., "FixMatch", NeurIPS 2020, equation 4: hard pseudo-labels of a weak view, where they are confident, are
    targets on a strong view. As in segmentation since: the pseudo-labels are an EMA teacher's, boxes are mixed (Yun et
    al., CutMix, ICCV 2019; Bai et al., BCP, CVPR 2023), structures that come in one piece keep their largest component
    (BCP), and a Dice loss stands beside the cross-entropy. The weak view has nnU-Net's geometry alone, the strong one
    its intensity transforms, each taken half of the time.
    """

    Settings = FixMatchSettings
    views = ("plain", "strong")
    sign_names = (*AGREEMENT, "confident")

    def __init__(self, settings: FixMatchSettings, facts: Facts) -> None:
        """It has no heads."""
        super().__init__(settings, facts)
        self.ema_decay = settings.teacher.decay

    @classmethod
    def check(cls, settings: FixMatchSettings, outline: Outline) -> None:
        """Refuse a structure that the dataset does not have."""
        settings.pseudo_label.check(outline.n_structures)

    @classmethod
    def resolve(cls, settings: FixMatchSettings, facts: Facts) -> FixMatchSettings:
        """Structures in one piece from the labelled cases."""
        return settings.model_copy(update={"pseudo_label": settings.pseudo_label.resolved(facts)})

    @property
    def weights(self) -> Mapping[str, float]:
        """Cross-entropy and Dice."""
        weights: dict[str, float] = self.settings.pseudo_label.weights
        return weights

    def forward(self, step: Step) -> Outcome:
        """Both terms on the mixed patches; signs on the unlabelled ones and their own voxels."""
        weak, strong = step.views
        assert step.teacher is not None  # asked for
        teacher_logits, _ = step.teacher(weak, ())
        settings = self.settings
        learnt = learn_from_plain_view(self.facts, step, teacher_logits, strong, settings.pseudo_label, settings.mixing)
        signs = agreement(self.facts, learnt.logits, teacher_logits, learnt.own)
        return Outcome(learnt.terms, signs | {"confident": learnt.confident})

    def alarms(self, signs: Mapping[str, float]) -> list[str]:
        """Collapse, and a teacher that is never confident."""
        collapsed = foreground_alarm(signs["foreground"], "lower pseudo_label.cross_entropy and pseudo_label.dice")
        return [*collapsed, *confident_alarm(signs["confident"])]

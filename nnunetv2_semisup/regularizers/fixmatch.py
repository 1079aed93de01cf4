"""FixMatch in 3D: a teacher's confident answers on a weak view teach the network on a strong, mixed one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field

from nnunetv2_semisup.configuration.settings import Section, SemiSupervisedSettings, Share
from nnunetv2_semisup.data.mixing import Mix, draw_mix
from nnunetv2_semisup.regularizers.base import Facts, Outcome, Regularizer, Step
from nnunetv2_semisup.regularizers.pseudo_labels import PseudoLabels, PseudoLabelSettings, pseudo_label_terms
from nnunetv2_semisup.regularizers.signs import foreground_alarm, foreground_share, overlap
from nnunetv2_semisup.regularizers.teacher import EMATeacherSettings


class MixingSettings(Section):
    """Boxes of other patches in the patches that the network learns from."""

    share: Share = Field(description="Share of the unlabelled patches that are mixed. 0: no mixing.")
    exchange: Share = Field(
        description="Share of the mixed patches whose partner is a labelled one, with its labels (BCP); the others "
        "get a box of another unlabelled patch (CutMix)."
    )
    edge: Annotated[float, Field(gt=0, lt=1)] = Field(description="Edges of the box as a share of the patch's.")


class FixMatchSettings(SemiSupervisedSettings):
    """Settings of nnUNetTrainerFixMatch."""

    pseudo_label: PseudoLabelSettings
    mixing: MixingSettings
    teacher: EMATeacherSettings


class FixMatch(Regularizer):
    """Confidence-masked weak-to-strong learning with mixed patches.

    Sohn et al., "FixMatch", NeurIPS 2020, equation 4: hard pseudo-labels of a weak view, where they are confident, are
    targets on a strong view. As in segmentation since: the pseudo-labels are an EMA teacher's, boxes are mixed (Yun et
    al., CutMix, ICCV 2019; Bai et al., BCP, CVPR 2023), and a Dice loss stands beside the cross-entropy. The weak view
    has nnU-Net's geometry alone, the strong one its intensity transforms, each taken half of the time.
    """

    Settings = FixMatchSettings
    views = ("plain", "strong")
    sign_names = ("foreground", "agreement", "confident")

    def __init__(self, settings: FixMatchSettings, facts: Facts) -> None:
        """It has no heads."""
        super().__init__(settings, facts)
        self.ema_decay = settings.teacher.decay

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
        own = PseudoLabels.of(self.facts, teacher_logits, self.settings.pseudo_label.threshold)
        mix = self._draw_mix(step)
        truth, known = self.facts.truth(step.labeled.target, own.target.shape[1])
        certain = torch.ones_like(own.confident[:1]).expand(len(truth), *own.confident.shape[1:])
        mixed = PseudoLabels(mix(own.target, truth), mix(own.confident, certain))
        everywhere = torch.ones_like(mix.own)
        valid = mix(everywhere if step.valid is None else step.valid, known)
        logits, _ = step.student(mix(strong, step.labeled.images), ())
        seen = valid & mix.own
        signs = {
            "foreground": foreground_share(self.facts, logits.detach(), seen),
            "agreement": overlap(self.facts, logits.detach(), teacher_logits, seen),
            "confident": own.share(step.valid),
        }
        return Outcome(pseudo_label_terms(self.facts, logits, mixed, valid), signs)

    def _draw_mix(self, step: Step) -> Mix:
        mixing = self.settings.mixing
        images = step.views[0]
        return draw_mix(
            len(images),
            len(step.labeled.images),
            images.shape[2:],
            step.generator,
            images.device,
            share=mixing.share,
            exchange=mixing.exchange,
            edge=mixing.edge,
        )

    def alarms(self, signs: Mapping[str, float]) -> list[str]:
        """Collapse, and a teacher that is never confident."""
        found = foreground_alarm(signs["foreground"], "lower pseudo_label.cross_entropy and pseudo_label.dice")
        if signs["confident"] == 0:
            found.append("no pseudo-label is confident, so nothing is learnt from them: lower pseudo_label.threshold")
        return found

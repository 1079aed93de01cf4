"""Mixed supervision (Liu et al. 2023): a teacher's decoder from dense labels, a confident student from all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from nnunetv2_semisup.configuration.settings import DataSettings, Section, SemiSupervisedSettings, Weight
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.losses.consistency import mse_consistency
from nnunetv2_semisup.losses.cross_entropy import cross_entropy
from nnunetv2_semisup.losses.distillation import double_softmax_divergence, kl_divergence
from nnunetv2_semisup.losses.entropy import entropy_loss
from nnunetv2_semisup.regularizers.base import Facts, Outcome, Outline, Regularizer, Step
from nnunetv2_semisup.regularizers.mixing import MixingSettings
from nnunetv2_semisup.regularizers.pseudo_labels import PseudoLabelSettings
from nnunetv2_semisup.regularizers.signs import (
    confident_alarm,
    foreground_alarm,
    foreground_share,
    mean_confidence,
    overlap,
)
from nnunetv2_semisup.regularizers.teacher import EMATeacherSettings
from nnunetv2_semisup.regularizers.weak_to_strong import learn_from_plain_view

_TEACHER_SIGNS = ("agreement", "divergence")
"""Signs of patches on which the student is taught."""

DEPARTURE = 10.0
"""Factor between the shares of foreground on weak and on dense patches above which the student counts as departed.

Wide, since nnU-Net draws a third of the labelled patches around foreground and the unlabelled ones anywhere."""
COPY = 0.01
"""Divergence of the decoders, as a share of the student's entropy, below which they count as copies."""
WINDOW = 5
"""Epochs over which confidence and agreement are compared."""
SURER, APART = 0.01, 0.1
"""Rise of the confidence and fall of the agreement over the window that make an alarm together."""


class MixedDataSettings(DataSettings):
    """Which cases are used, and how many sparse patches there are beside the dense ones."""

    dense_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="Share of dense patches among the labelled ones of a step, where there are sparse cases: beside "
        "nnU-Net's batch, which is of dense cases, there are as many sparse patches as that takes, at least one."
    )


class SecondDecoderSettings(Section):
    """The teacher's decoder."""

    weight: Weight = Field(description="Weight of nnU-Net's loss of it on dense patches; 0: there is no teacher.")


class SparseSettings(Section):
    """Sparse labels."""

    weight: Weight = Field(
        description="Weight of the student's supervised loss on sparse patches, beside that on dense ones."
    )


class DistillationSettings(Section):
    """What the student learns from the teacher's decoder."""

    weight: Weight = Field(description="Weight of the divergence of the student's prediction from the teacher's.")
    domain: Literal["all", "dense"] = Field(
        description="Patches that it is computed on: all (dense, sparse, unlabelled), or the dense ones alone."
    )
    form: Literal["kl", "brier", "legacy"] = Field(
        description="kl: Kullback-Leibler divergence; brier: mean squared difference of the probabilities; legacy: as "
        "the authors released it, on a softmax of probabilities and with gradient into the teacher."
    )
    direction: Literal["teacher_to_student", "student_to_teacher"] = Field(
        description="Of the divergence of form kl: KL(teacher || student) or KL(student || teacher)."
    )
    view: Literal["same", "other"] = Field(
        description="Intensity draw of the unlabelled patches that the teacher sees: the student's or another one; "
        "with entropy.form weak_to_strong it sees the plain one."
    )


class ConfidenceSettings(Section):
    """Certainty of the student."""

    weight: Weight = Field(description="Weight of what makes its prediction certain.")
    form: Literal["shannon", "pseudo_label", "weak_to_strong"] = Field(
        description="shannon: mean entropy of the prediction as a share of its maximum; pseudo_label: cross-entropy "
        "with its own decision, where that is sure enough; weak_to_strong: of unlabelled patches, what its moving "
        "average says surely of a plain view is the label of a strong one with mixed patches, as in FixMatch; of "
        "labelled patches as shannon."
    )
    domain: Literal["weak", "all"] = Field(
        description="Patches that it is computed on: sparse and unlabelled ones, or the dense ones too."
    )


class MixedKDSettings(SemiSupervisedSettings):
    """Settings of nnUNetTrainerMixedKD.

    `mixing`, `ema` and all but the threshold of `pseudo_label` are those of the form weak_to_strong.
    """

    data: MixedDataSettings
    teacher: SecondDecoderSettings
    sparse: SparseSettings
    kd: DistillationSettings
    entropy: ConfidenceSettings
    pseudo_label: PseudoLabelSettings
    mixing: MixingSettings
    ema: EMATeacherSettings


class MixedKD(Regularizer):
    """Distillation from a second decoder, and confidence maximisation.

    Liu, Desrosiers, Ben Ayed, Dolz, "Segmentation with mixed supervision: confidence maximization helps knowledge
    distillation", Medical Image Analysis 83 (2023) 102670; Dolz et al., IPMI 2021. The teacher is a second decoder on
    the student's encoder, supervised on dense patches alone. `forward` has the terms of unlabelled patches, `dense` and
    `sparse` those of the labelled ones, from the outputs that their supervised losses read. Departures: the teacher is
    detached (the released script: gradient into both decoders, which `kd.form=legacy` brings back); it may teach on all
    patches (`kd.domain=all`; the paper: on dense ones); means over voxels in place of sums; a warm-up and a ramp.
    """

    Settings = MixedKDSettings

    def __init__(self, settings: MixedKDSettings, facts: Facts) -> None:
        """There are no heads."""
        super().__init__(settings, facts)
        self.is_weak_to_strong = settings.entropy.form == "weak_to_strong"
        if self.is_weak_to_strong:
            self.views = ("plain", "strong")
            self.ema_decay = settings.ema.decay
        else:
            self.views = ("stock",) if settings.kd.view == "same" else ("stock", "stock")
        self.needs_second_decoder = settings.teacher.weight > 0
        self.distils = settings.kd.weight > 0
        self.teaches_everywhere = self.distils and settings.kd.domain == "all"
        self.sign_names = (
            *("foreground", "confidence"),
            *("confident",) * self.is_weak_to_strong,
            *_TEACHER_SIGNS * self.teaches_everywhere,
        )
        self._epochs: list[tuple[float, float]] = []

    @classmethod
    def check(cls, settings: MixedKDSettings, outline: Outline) -> None:
        """A teacher that learns nothing has nothing to say; the released form knows no regions."""
        settings.pseudo_label.check(outline.n_structures)
        if settings.kd.weight > 0 and settings.teacher.weight == 0:
            raise SemiSupervisedError(
                "kd.weight is above 0 and teacher.weight is 0, so the teacher would teach without having learned; set "
                "kd.weight=0 as well, or teacher.weight=1"
            )
        if settings.kd.view == "other" and settings.kd.domain == "dense":
            raise SemiSupervisedError(
                "kd.view = 'other' is of unlabelled patches, which the teacher does not see with kd.domain = 'dense'; "
                "set kd.domain=all, or kd.view=same"
            )
        if settings.kd.view == "other" and settings.entropy.form == "weak_to_strong":
            raise SemiSupervisedError(
                "kd.view = 'other' has no meaning with entropy.form = 'weak_to_strong', where the teacher sees the "
                "plain view; set kd.view=same"
            )
        if settings.kd.form == "legacy" and outline.has_regions:
            raise SemiSupervisedError(
                "kd.form = 'legacy' is a softmax over classes, and this dataset has regions; set kd.form=kl or brier"
            )

    @classmethod
    def resolve(cls, settings: MixedKDSettings, facts: Facts) -> MixedKDSettings:
        """Structures in one piece from the labelled cases, where there are pseudo-labels of patches."""
        if settings.entropy.form != "weak_to_strong":
            return settings
        return settings.model_copy(update={"pseudo_label": settings.pseudo_label.resolved(facts)})

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the unlabelled patches."""
        weight = self.settings.entropy.weight
        confidence = {"entropy": weight}
        if self.is_weak_to_strong:
            confidence = {name: weight * value for name, value in self.settings.pseudo_label.weights.items()}
        return {"kd": self.settings.kd.weight * self.teaches_everywhere, **confidence}

    @property
    def labeled_weights(self) -> Mapping[str, float]:
        """Of the labelled batches."""
        kd, entropy = self.settings.kd, self.settings.entropy
        weights = {"kd_dense": kd.weight, "kd_sparse": kd.weight * self.teaches_everywhere}
        return weights | {"entropy_dense": entropy.weight * (entropy.domain == "all"), "entropy_sparse": entropy.weight}

    @property
    def labeled_sign_names(self) -> tuple[str, ...]:
        """Signs that the labelled batches add to those of the unlabelled patches."""
        return ("foreground_dense", *_TEACHER_SIGNS * (self.distils and not self.teaches_everywhere))

    def forward(self, step: Step) -> Outcome:
        """The terms of the unlabelled patches."""
        if self.is_weak_to_strong:
            return self._weak_to_strong(step)
        student, _ = step.student(step.views[0], ())
        terms, signs = {}, self._signs(student, step.valid)
        if self.settings.entropy.weight > 0:
            terms["entropy"] = self.uncertainty(student, step.valid)
        taught = self._teaching(step, step.views[-1], student, step.valid)
        return Outcome(terms | taught.terms, signs | taught.signs)

    def _weak_to_strong(self, step: Step) -> Outcome:
        """Of strong, mixed patches: what the student's moving average and the teacher say of the plain ones."""
        plain, strong = step.views
        assert step.teacher is not None  # asked for
        answered, _ = step.teacher(plain, ())
        settings = self.settings
        learnt = learn_from_plain_view(self.facts, step, answered, strong, settings.pseudo_label, settings.mixing)
        signs = self._signs(learnt.logits, learnt.own) | {"confident": learnt.confident}
        taught = self._teaching(step, plain, learnt.logits, learnt.own)
        return Outcome(learnt.terms | taught.terms, signs | taught.signs)

    def _teaching(self, step: Step, view: Tensor, student: Tensor, valid: Tensor | None) -> Outcome:
        """What the student's logits learn of unlabelled patches from the teacher, which sees this view of them."""
        if not self.teaches_everywhere:
            return Outcome({})
        assert step.second_decoder is not None  # asked for
        teacher, _ = step.second_decoder(view, ())
        term = self.distillation(student, teacher, valid)
        return Outcome({"kd": term}, self._signs_beside(student, teacher, valid))

    def dense(self, student: Tensor, teacher: Tensor | None) -> Outcome:
        """The terms of a dense batch.

        Args:
            student: full-resolution logits [B, C, *spatial], with gradient.
            teacher: the same of the teacher's decoder; None without a teacher.
        """
        terms, signs = {}, {"foreground_dense": foreground_share(self.facts, student.detach(), None)}
        if self.distils:
            assert teacher is not None  # refused by `check`
            terms["kd_dense"] = self.distillation(student, teacher)
            if not self.teaches_everywhere:
                signs |= self._signs_beside(student, teacher, None)
        if self.labeled_weights["entropy_dense"] > 0:
            terms["entropy_dense"] = self.uncertainty(student)
        return Outcome(terms, signs)

    def sparse(self, student: Tensor, teacher: Tensor | None) -> Outcome:
        """The terms of a sparse batch; args as those of `dense`, the teacher's where it teaches everywhere."""
        terms, signs = {}, self._signs(student, None)
        if self.teaches_everywhere:
            assert teacher is not None  # asked for
            terms["kd_sparse"] = self.distillation(student, teacher)
            signs |= self._signs_beside(student, teacher, None)
        if self.labeled_weights["entropy_sparse"] > 0:
            terms["entropy_sparse"] = self.uncertainty(student)
        return Outcome(terms, signs)

    def distillation(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """How far the student's logits are from the teacher's, in the form of the settings."""
        form, regions = self.settings.kd.form, self.facts.has_regions
        if form == "legacy":
            return double_softmax_divergence(student, teacher, valid)
        teacher = teacher.detach()
        if form == "brier":
            return mse_consistency(self.facts.probabilities(student), self.facts.probabilities(teacher), valid)
        if self.settings.kd.direction == "student_to_teacher":
            return kl_divergence(student, teacher, valid, regions)
        return kl_divergence(teacher, student, valid, regions)

    def uncertainty(self, student: Tensor, valid: Tensor | None = None) -> Tensor:
        """How unsure the student's logits are, in the form of the settings."""
        regions = self.facts.has_regions
        if self.settings.entropy.form != "pseudo_label":
            return entropy_loss(student, valid, regions)
        decided = student.detach()
        threshold = self.settings.pseudo_label.threshold
        sure = self.facts.confidence(self.facts.probabilities(decided)) >= threshold
        return cross_entropy(student, self.facts.answer(decided), valid, sure.float(), regions)

    def _signs(self, student: Tensor, valid: Tensor | None) -> dict[str, Tensor]:
        """Of sparse or unlabelled patches."""
        student = student.detach()
        return {
            "foreground": foreground_share(self.facts, student, valid),
            "confidence": mean_confidence(self.facts, student, valid),
        }

    def _signs_beside(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> dict[str, Tensor]:
        """Where it is taught: overlap of the foregrounds, and divergence as a share of the student's entropy."""
        student, teacher, regions = student.detach(), teacher.detach(), self.facts.has_regions
        nats = entropy_loss(student, valid, regions) * math.log(2 if regions else student.shape[1])
        divergence = kl_divergence(teacher, student, valid, regions) / nats.clamp_min(torch.finfo(nats.dtype).tiny)
        ours, theirs = self.facts.foreground(student), self.facts.foreground(teacher)
        values = overlap(ours, theirs, valid), divergence
        return dict(zip(_TEACHER_SIGNS, values, strict=True))

    def alarms(self, signs: Mapping[str, float]) -> list[str]:
        """Collapse; departure of weak from dense; copies; confidence without agreement; nothing sure at all."""
        unsure = confident_alarm(signs.get("confident", 1.0))
        return [*self._collapse(signs), *self._copies(signs), *self._overconfidence(signs), *unsure]

    def _collapse(self, signs: Mapping[str, float]) -> list[str]:
        if "foreground" not in signs:
            return []
        weak, dense = signs["foreground"], signs.get("foreground_dense", 0.0)
        found = foreground_alarm(weak, "lower entropy.weight")
        if not found and dense > 0 and not dense / DEPARTURE <= weak <= dense * DEPARTURE:
            found = [
                f"the student predicts foreground in {weak:.2%} of the voxels of sparse and unlabelled patches, and in "
                f"{dense:.2%} of the dense ones; unless the images differ like that, it drifts: lower entropy.weight, "
                "or raise kd.weight with kd.domain=all"
            ]
        return found

    def _copies(self, signs: Mapping[str, float]) -> list[str]:
        if signs.get("divergence", 1.0) >= COPY:
            return []
        if self.is_weak_to_strong:
            advice = "; teacher.weight=0 with kd.weight=0 saves its time"
        else:
            advice = " and the entropy acts alone; try kd.domain=all with kd.view=other"
        return [
            f"the two decoders say the same (their divergence is {signs['divergence']:.1%} of the student's entropy), "
            f"so the teacher teaches nothing{advice}"
        ]

    def _overconfidence(self, signs: Mapping[str, float]) -> list[str]:
        if not {"confidence", "agreement"} <= signs.keys():
            return []
        self._epochs = [*self._epochs[-WINDOW:], (signs["confidence"], signs["agreement"])]
        (confidence, agreement), (now, agrees) = self._epochs[0], self._epochs[-1]
        if now - confidence < SURER or agreement - agrees < APART:
            return []
        return [
            f"within {len(self._epochs) - 1} epochs the student grew surer ({confidence:.3f} to {now:.3f}) and agrees "
            f"less with the teacher ({agreement:.2f} to {agrees:.2f}): it learns its own errors; lower entropy.weight"
        ]

"""Mean teacher (Tarvainen & Valpola 2017): agree with the average of one's own past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from nnunetv2_semisup.configuration.settings import Section, SemiSupervisedSettings, Weight
from nnunetv2_semisup.losses.consistency import mse_consistency
from nnunetv2_semisup.regularizers.base import Facts, Outcome, Regularizer, Step
from nnunetv2_semisup.regularizers.signs import AGREEMENT, agreement, foreground_alarm
from nnunetv2_semisup.regularizers.teacher import EMATeacherSettings


class ConsistencySettings(Section):
    """Agreement of student and teacher."""

    weight: Weight = Field(description="Weight of the mean squared difference of the probabilities.")


class MeanTeacherSettings(SemiSupervisedSettings):
    """Settings of nnUNetTrainerMeanTeacher."""

    consistency: ConsistencySettings
    teacher: EMATeacherSettings


class MeanTeacher(Regularizer):
    """Mean squared difference of the student's and an EMA teacher's probabilities on two views.

    Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017, equations 1 and 2. Departures: the views
    differ by nnU-Net's intensity augmentation in place of the paper's noise, crops and dropout; unlabelled patches
    alone are compared.
    """

    Settings: ClassVar[type[SemiSupervisedSettings]] = MeanTeacherSettings
    sign_names: Sequence[str] = AGREEMENT

    def __init__(self, settings: MeanTeacherSettings, facts: Facts) -> None:
        """It has no heads."""
        super().__init__(settings, facts)
        self.ema_decay = settings.teacher.decay

    @property
    def weights(self) -> Mapping[str, float]:
        """One term."""
        return {"consistency": self.settings.consistency.weight}

    def forward(self, step: Step) -> Outcome:
        """The squared difference, averaged over valid voxels and classes."""
        first, second = step.views
        assert step.teacher is not None  # asked for
        target, _ = step.teacher(first, ())
        logits, _ = step.student(second, ())
        term = mse_consistency(self.facts.probabilities(logits), self.facts.probabilities(target), step.valid)
        return Outcome({"consistency": term}, agreement(self.facts, logits, target, step.valid))

    def alarms(self, signs: Mapping[str, float]) -> list[str]:
        """Collapse."""
        return foreground_alarm(signs["foreground"], "lower consistency.weight")

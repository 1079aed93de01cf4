"""Self-training: stored predictions of the unlabelled cases are trained on as if they were labels."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from nnunetv2_semisup.configuration.settings import Section, SemiSupervisedSettings, Weight
from nnunetv2_semisup.losses.cross_entropy import cross_entropy
from nnunetv2_semisup.losses.dice import soft_dice_loss
from nnunetv2_semisup.losses.masking import masked_mean
from nnunetv2_semisup.regularizers.base import Facts, Outcome, Regularizer, Step
from nnunetv2_semisup.regularizers.rounds import RoundSettings
from nnunetv2_semisup.regularizers.signs import foreground_alarm, foreground_share


class StoredLabelSettings(Section):
    """What is learnt from the stored pseudo-labels."""

    cross_entropy: Weight = Field(description="Weight of the cross-entropy, averaged over the voxels with a label.")
    dice: Weight = Field(description="Weight of the Dice loss on them.")


class SelfTrainingSettings(SemiSupervisedSettings):
    """Settings of nnUNetTrainerSelfTraining."""

    pseudo_label: StoredLabelSettings
    rounds: RoundSettings


class SelfTraining(Regularizer):
    """Cross-entropy and Dice against the network's own sliding-window predictions of an earlier epoch.

    Scudder 1965; Lee, "Pseudo-label", ICML workshop 2013; in rounds and with nnU-Net as the winners of FLARE 2022
    (Huang et al.) did. A round predicts every unlabelled case as at inference; the argmax is stored in the run's own
    folder. Departures: no ensemble, no smaller student, no cases left out.
    """

    Settings = SelfTrainingSettings
    views = ("stock",)
    sign_names = ("foreground", "pseudo_foreground", "known")

    def __init__(self, settings: SelfTrainingSettings, facts: Facts) -> None:
        """It has no heads."""
        super().__init__(settings, facts)
        self.rounds = settings.rounds

    @property
    def weights(self) -> Mapping[str, float]:
        """Cross-entropy and Dice."""
        pseudo_label = self.settings.pseudo_label
        return {"pseudo_cross_entropy": pseudo_label.cross_entropy, "pseudo_dice": pseudo_label.dice}

    def forward(self, step: Step) -> Outcome:
        """Both terms on the voxels that have a pseudo-label and lie inside the image."""
        assert step.pseudo_label is not None  # asked for
        (view,) = step.views
        logits, _ = step.student(view, ())
        target, known = self.facts.pseudo_truth(step.pseudo_label, logits.shape[1])
        inside = known if step.valid is None else known & step.valid
        p, wanted = self.facts.probabilities(logits), target
        if not self.facts.has_regions:
            p, wanted = p[:, 1:], target[:, 1:]
        terms = {
            "pseudo_cross_entropy": cross_entropy(logits, target, inside, regions=self.facts.has_regions),
            "pseudo_dice": soft_dice_loss(p, wanted, inside, step.reduce),
        }
        signs = {
            "foreground": foreground_share(self.facts, logits.detach(), step.valid),
            "pseudo_foreground": masked_mean((step.pseudo_label > 0).float(), inside),
            "known": masked_mean(known.float(), step.valid),
        }
        return Outcome(terms, signs)

    def alarms(self, signs: Mapping[str, float]) -> list[str]:
        """Collapse, and pseudo-labels without any foreground."""
        found = foreground_alarm(signs["foreground"], "lengthen schedule.warmup")
        if signs["pseudo_foreground"] == 0:
            found.append("no pseudo-label has any foreground: lengthen schedule.warmup, or label more cases")
        return found

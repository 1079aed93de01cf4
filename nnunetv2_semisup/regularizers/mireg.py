"""Mutual-information regularisation (Peng et al. 2021, MELBA 2021:009) beside output consistency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from nnunetv2_semisup.configuration.settings import Auto, Count, Section, SemiSupervisedSettings, Weight
from nnunetv2_semisup.data.geometry import draw_geometry
from nnunetv2_semisup.data.mixing import Mix
from nnunetv2_semisup.data.views import View
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.losses.consistency import mse_consistency
from nnunetv2_semisup.losses.mutual_information import global_mi_loss, local_mi_loss, marginal_entropy
from nnunetv2_semisup.networks.heads import ClusterHeads, HeadKind
from nnunetv2_semisup.regularizers.base import Facts, Outcome, Regularizer, Step
from nnunetv2_semisup.regularizers.mixing import MixingSettings
from nnunetv2_semisup.regularizers.pseudo_labels import TERMS, PseudoLabels, PseudoLabelSettings, pseudo_label_terms
from nnunetv2_semisup.regularizers.signs import AGREEMENT, agreement, foreground_alarm
from nnunetv2_semisup.regularizers.teacher import EMATeacherSettings

BOTTLENECK = 0
Output = tuple[Tensor, Sequence[Tensor]]
Radius = Annotated[int, Field(ge=0, le=5)]


class MISettings(Section):
    """Mutual information between the cluster assignments of two views."""

    weight: Weight = Field(description="Weight of the mutual information of all taps together.")
    taps: list[int] = Field(
        description="Levels whose features are clustered: 0 is the bottleneck (regionally pooled, global MI), negative "
        "ones count decoder stages from the last (local MI)."
    )
    shares: list[Weight] = Field(description="Share of the weight per tap; normalised to a sum of 1.")
    clusters: Annotated[int, Field(ge=2)] = Field(description="Clusters K of every head.")
    sub_heads: Count = Field(description="Independent heads per tap, whose losses are averaged.")
    head: HeadKind = Field(description="Form of the heads: one 1x1 convolution, or two.")
    grid: Count = Field(
        description="Regions per axis into which the bottleneck is pooled (at most its size). 1 is the paper's global "
        "pooling, dead under instance normalisation."
    )
    radius: list[Radius] | Auto = Field(
        description='Largest displacement per axis in voxels of the tap. "auto": 1 along axes whose spacing is within '
        "twice the finest, else 0."
    )

    @model_validator(mode="after")
    def _one_share_per_tap(self) -> MISettings:
        if len(self.shares) != len(self.taps):
            raise ValueError("mi.shares needs one number per entry of mi.taps")
        return self


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
        mi = settings.mi
        total = sum(mi.shares)
        self._weights = {
            _term(tap): mi.weight * share / total for tap, share in zip(mi.taps, mi.shares, strict=True) if total > 0
        }
        self.taps = [tap for tap in mi.taps if self._weights.get(_term(tap), 0) > 0]
        self._weights |= {"consistency": settings.consistency.weight, **settings.pseudo_label.weights}
        self.views = (settings.views.reference, settings.views.trained)
        self.sign_names = [f"{_term(tap)}_{what}" for tap in self.taps for what in ("nats", "entropy")]
        self.sign_names += AGREEMENT
        self.heads = nn.ModuleDict(
            {
                _term(tap): ClusterHeads(facts.levels.channels[tap], mi.clusters, mi.sub_heads, mi.head, facts.dim)
                for tap in self.taps
            }
        )

    @classmethod
    def check(cls, settings: MIRegSettings, n_levels: int) -> None:
        """Refuse a tap that the network does not have."""
        for tap in settings.mi.taps:
            if not -n_levels < tap <= BOTTLENECK:
                raise SemiSupervisedError(
                    f"mi.taps = {settings.mi.taps} is not allowed for this network; allowed are 0 (bottleneck) and "
                    f"{1 - n_levels} to -1 (decoder stages)"
                )

    @classmethod
    def resolve(cls, settings: MIRegSettings, facts: Facts) -> MIRegSettings:
        """Windows from the spacing: the same reach in millimetres along every axis, as far as voxels allow."""
        if settings.mi.radius != "auto":
            return settings
        finest = min(facts.spacing)
        radius = [1 if spacing < 2 * finest else 0 for spacing in facts.spacing]
        return settings.model_copy(update={"mi": settings.mi.model_copy(update={"radius": radius})})

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
        (target_logits, target_features), (logits, features) = self._outputs(step, reference, trained)
        target_logits = geometry(target_logits.detach())
        shared = valid if mix is None else mix.own if valid is None else mix.own & valid

        terms: dict[str, Tensor] = {}
        signs: dict[str, Tensor] = {}
        for tap, target, feature in zip(self.taps, target_features, features, strict=True):
            name = _term(tap)
            loss, entropy = self._mutual_information(tap, geometry(target), feature, shared, step)
            terms[name] = loss
            signs[f"{name}_nats"] = -loss.detach()
            signs[f"{name}_entropy"] = entropy
        terms |= self._output_terms(logits, target_logits, valid, mix, step)
        signs |= agreement(self.facts, logits, target_logits, shared)
        return Outcome(terms, signs)

    def _output_terms(
        self, logits: Tensor, target_logits: Tensor, valid: Tensor | None, mix: Mix | None, step: Step
    ) -> dict[str, Tensor]:
        """Consistency and pseudo-label terms of positive weight, of mixed patches against mixed targets."""
        target = self.facts.probabilities(target_logits)
        labels = PseudoLabels.of(self.facts, target_logits, self.settings.pseudo_label.threshold)
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
            return step.teacher(reference, self.taps), step.student(trained, self.taps)
        # In one call: on a CPU, torch convolves a batch of one sample several times slower.
        logits, features = step.student(torch.cat([reference, trained]), self.taps)
        n = len(reference)
        return (logits[:n], [feature[:n] for feature in features]), (logits[n:], [feature[n:] for feature in features])

    def alarms(self, signs: Mapping[str, float]) -> list[str]:
        """Collapse of the clusters, and a network that predicts nothing or everything on unlabelled images."""
        found = []
        for tap in self.taps:
            entropy = signs[f"{_term(tap)}_entropy"]
            if entropy < 0.1:
                found.append(
                    f"the clusters of tap {tap} have collapsed (marginal entropy {entropy:.2f} of its maximum): the "
                    "mutual information there teaches nothing; try a larger mi.weight or fewer mi.clusters"
                )
        return found + foreground_alarm(signs["foreground"], "lower consistency.weight or lengthen schedule.warmup")

    def _mutual_information(
        self, tap: int, first: Tensor, second: Tensor, valid: Tensor | None, step: Step
    ) -> tuple[Tensor, Tensor]:
        """Loss averaged over the sub-heads, and the entropy of their marginals as a share of log K."""
        mask = None if valid is None else F.interpolate(valid.float(), size=second.shape[2:], mode="nearest")
        heads = self.heads[_term(tap)]
        if tap == BOTTLENECK:
            first, second = self._pooled(first, mask), self._pooled(second, mask)
            mask = None if mask is None else self._pooled(mask)
        losses, entropies = [], []
        for z1, z2 in zip(heads(first), heads(second), strict=True):
            if tap == BOTTLENECK:
                rows1, rows2 = z1.movedim(1, -1).flatten(0, -2), z2.movedim(1, -1).flatten(0, -2)
                if mask is not None:
                    inside = mask.flatten() > 0
                    rows1, rows2 = rows1[inside], rows2[inside]
                losses.append(global_mi_loss(rows1, rows2, reduce=step.reduce))
            else:
                losses.append(local_mi_loss(z1, z2, self.settings.mi.radius, mask, reduce=step.reduce))
            entropies.append(marginal_entropy(z2.detach()))
        return torch.stack(losses).mean(), torch.stack(entropies).mean() / math.log(self.settings.mi.clusters)

    def _pooled(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Means over a grid of regions, of the valid voxels alone; 0 where a region has none."""
        if mask is not None:
            return self._pooled(features * mask) / self._pooled(mask).clamp_min(1e-6)
        grid = [min(self.settings.mi.grid, size) for size in features.shape[2:]]
        if self.facts.dim == 3:
            return F.adaptive_avg_pool3d(features, (grid[0], grid[1], grid[2]))
        return F.adaptive_avg_pool2d(features, (grid[0], grid[1]))


def _term(tap: int) -> str:
    return "mi_bottleneck" if tap == BOTTLENECK else f"mi_stage{tap}"

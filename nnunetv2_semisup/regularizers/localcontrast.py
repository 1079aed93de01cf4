"""Local contrast (Chaitanya et al. 2023): voxels are drawn to the mean embedding of their class, true or pseudo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from nnunetv2_semisup.configuration.settings import Auto, Count, Section, SemiSupervisedSettings, Weight
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.losses.local_contrast import (
    class_means,
    class_voxels,
    draw_anchors,
    inter_contrast,
    intra_contrast,
    voxel_vectors,
)
from nnunetv2_semisup.losses.masking import masked_mean
from nnunetv2_semisup.networks.heads import EmbeddingHead
from nnunetv2_semisup.regularizers.base import Facts, Outcome, Outline, Regularizer, Step
from nnunetv2_semisup.regularizers.rounds import RoundSettings
from nnunetv2_semisup.regularizers.signs import AGREEMENT, foreground_alarm, mask_agreement
from nnunetv2_semisup.regularizers.teacher import EMATeacherSettings

TAP = -1
"""The last decoder stage."""
ALIKE = 0.9
"""Excess of the contrast from which the embeddings count as all alike."""


class EmbeddingSettings(Section):
    """The head that makes an embedding of every voxel."""

    width: Count = Field(description="Channels of the embedding, and of the layer before it.")


class ContrastSettings(Section):
    """Contrast of voxels against class means."""

    weight: Weight = Field(description="Weight of the contrast.")
    form: Literal["inter", "intra"] = Field(
        description='"inter": voxels of two patches against the class means of both. "intra": voxels of each patch '
        "against its own."
    )
    temperature: Annotated[float, Field(gt=0, le=10)] = Field(description="Divides the cosines.")
    anchors: Annotated[int, Field(ge=1, le=1024)] = Field(description="Voxels drawn of each class of each patch.")
    least_voxels: Count = Field(description="Voxels from which a class counts as present in a patch.")
    background: bool | Auto = Field(
        description='Whether background is one of the classes. "auto": where there is one other class or region alone, '
        "which would have nothing to be contrasted with."
    )
    pseudo_labels: Literal["online", "rounds"] = Field(
        description='Where the classes of unlabelled voxels come from. "online": the EMA teacher on the same patch. '
        '"rounds": stored predictions of whole cases, renewed `rounds.count` times.'
    )


class LocalContrastSettings(SemiSupervisedSettings):
    """Settings of nnUNetTrainerLocalContrast. `rounds` are those of `contrast.pseudo_labels = "rounds"`."""

    contrast: ContrastSettings
    embedding: EmbeddingSettings
    teacher: EMATeacherSettings
    rounds: RoundSettings


class LocalContrast(Regularizer):
    """Contrast of voxel embeddings against class means of labelled and pseudo-labelled patches.

    Chaitanya et al., "Local contrastive loss with pseudo-label based self-training for semi-supervised medical image
    segmentation", Medical Image Analysis 2023. Pseudo-labels say which voxels belong together and reach no other loss:
    the segmentation layer gets no gradient. Departures from the released code are listed in
    docs/explanation/localcontrast.md.
    """

    Settings = LocalContrastSettings
    needs_labeled_features = True
    sign_names = (*AGREEMENT, "pseudo_foreground", "classes", "positive", "negative", "excess")

    def __init__(self, settings: LocalContrastSettings, facts: Facts) -> None:
        """Build the head for resolved settings."""
        super().__init__(settings, facts)
        self.is_online = settings.contrast.pseudo_labels == "online"
        self.views = ("plain", "stock") if self.is_online else ("stock",)
        self.rounds = None if self.is_online else settings.rounds
        self.ema_decay = settings.teacher.decay
        self.head = EmbeddingHead(facts.levels.channels[TAP], settings.embedding.width, facts.dim)

    @classmethod
    def check(cls, settings: LocalContrastSettings, outline: Outline) -> None:
        """Refuse a single class, and embeddings that cannot fit into memory."""
        if outline.n_structures == 1 and settings.contrast.background is False:
            raise SemiSupervisedError(
                "contrast.background = False is not allowed for this dataset: with one class beside background nothing "
                "is left to contrast it with; use 'auto' or true"
            )
        width, patches = settings.embedding.width, 2 * outline.batch_size
        # At the least: the convolution's output and the normalised one, in half precision.
        needed = 2 * 2 * patches * width * outline.level_voxels[TAP]
        if needed > outline.memory:
            raise SemiSupervisedError(
                f"embedding.width = {width} is not allowed: the embeddings of {patches} patches would take "
                f"{needed / 1e9:.0f} GB, and the device has {outline.memory / 1e9:.0f} GB; lower it"
            )

    @classmethod
    def resolve(cls, settings: LocalContrastSettings, facts: Facts) -> LocalContrastSettings:
        """Background is a class where there is one other alone."""
        contrast = settings.contrast
        if contrast.background != "auto":
            return settings
        resolved = contrast.model_copy(update={"background": facts.n_structures == 1})
        return settings.model_copy(update={"contrast": resolved})

    @property
    def weights(self) -> Mapping[str, float]:
        """One term."""
        return {"contrast": self.settings.contrast.weight}

    def forward(self, step: Step) -> Outcome:
        """The contrast of all patches of the step; signs of the unlabelled ones."""
        assert step.labeled is not None  # trains beside supervised training only
        assert step.labeled.features is not None  # asked for
        logits, (features,) = step.student(step.views[-1], (TAP,))
        pseudo, truth = self._pseudo_classes(step), self.facts.classes(step.labeled.target)
        has_foreground = (pseudo > 0).flatten(1).any(dim=1)
        # Of a pseudo-label without any foreground nobody knows whether it missed what it should have found.
        trusted = torch.where(has_foreground.view(-1, *[1] * (pseudo.ndim - 1)), pseudo, -1)
        parts = [
            self._embeddings(maps, classes, step.generator)
            for maps, classes in ((features, trusted), (step.labeled.features, truth))
        ]
        anchors, means, present = (torch.cat(values) for values in zip(*parts, strict=True))
        settings = self.settings.contrast
        if settings.form == "inter":
            pairs = pairs_of(len(features), len(step.labeled.features))
            found = inter_contrast(anchors, means, present, pairs, settings.temperature, step.reduce)
        else:
            found = intra_contrast(anchors, means, present, settings.temperature, step.reduce)
        known = pseudo >= 0
        signs = mask_agreement(self.facts.foreground(logits.detach()), pseudo > 0, known)
        signs |= {
            "pseudo_foreground": masked_mean((pseudo > 0).float(), known),
            "classes": present[: len(features)].float().mean(),
            "positive": found.positive,
            "negative": found.negative,
            "excess": found.excess,
        }
        return Outcome({"contrast": found.loss}, signs)

    def _pseudo_classes(self, step: Step) -> Tensor:
        """Class of every unlabelled voxel [B, 1, *spatial], -1 where unknown and outside the image."""
        if self.is_online:
            assert step.teacher is not None  # asked for
            classes = self.facts.answered_classes(step.teacher(step.views[0], ())[0])
        else:
            assert step.pseudo_label is not None  # asked for
            classes = self.facts.pseudo_classes(step.pseudo_label)
        return classes if step.valid is None else torch.where(step.valid, classes, -1)

    def _embeddings(
        self, features: Tensor, classes: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Anchors [B, K, N, D], class means [B, K, D] and which classes are present [B, K] of patches."""
        settings = self.settings.contrast
        without_background = 0 if settings.background else 1
        voxels = class_voxels(classes - without_background, self.facts.n_structures + 1 - without_background)
        maps = self.head(features)
        anchors = voxel_vectors(maps, draw_anchors(voxels, settings.anchors, generator))
        means = class_means(maps, voxels)
        return self.head.embed(anchors), self.head.embed(means), voxels.size >= settings.least_voxels

    def alarms(self, signs: Mapping[str, float]) -> list[str]:
        """Collapse of the network, pseudo-labels without foreground, embeddings that tell nothing apart."""
        found = foreground_alarm(signs["foreground"], "lower contrast.weight or lengthen schedule.warmup")
        if signs["pseudo_foreground"] == 0:
            found.append(
                "no pseudo-label has any foreground, so the contrast learns from the labelled patches alone: lengthen "
                "schedule.warmup, or label more cases"
            )
        elif signs["classes"] == 0:
            found.append(
                "no class has contrast.least_voxels voxels in any unlabelled patch, so nothing is learnt from them: "
                "lower it"
            )
        if signs["excess"] > ALIKE:
            found.append(
                f"the embeddings of different classes are alike (cosine {signs['positive']:.2f} with the own class's "
                f"mean, {signs['negative']:.2f} with the others'): raise contrast.weight, or lengthen schedule.warmup"
            )
        return found


def pairs_of(unlabeled: int, labeled: int) -> Sequence[tuple[int, int]]:
    """Pairs of patches, the unlabelled ones numbered first: one of each kind, and two and two of one kind.

    >>> pairs_of(2, 2)
    [(0, 2), (1, 3), (0, 1), (2, 3)]
    """
    mixed = [(index % unlabeled, unlabeled + index % labeled) for index in range(max(unlabeled, labeled))]
    alike = [(index, index + 1) for index in range(0, unlabeled - 1, 2)]
    return mixed + alike + [(index, index + 1) for index in range(unlabeled, unlabeled + labeled - 1, 2)]

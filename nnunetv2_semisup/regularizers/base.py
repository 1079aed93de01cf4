"""What a regularizer is: unlabelled views in, unweighted named terms out."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nnunetv2_semisup.configuration.settings import Settings as AnySettings
from nnunetv2_semisup.data.views import View
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.networks.features import Levels
from nnunetv2_semisup.regularizers.rounds import RoundSettings

Forward = Callable[[Tensor, Sequence[int]], tuple[Tensor, list[Tensor]]]
"""A network call: images [B, C, *spatial] and taps to full-resolution logits and the tapped features."""


@dataclass(frozen=True)
class Outline:
    """What is known of a training before anything is written.

    Attributes:
        level_voxels: voxels of a patch at each level of the network, bottleneck first.
        batch_size: patches a labelled step.
        n_structures: classes without background, or regions.
        patch_size: voxels per axis of a patch.
        level_strides: voxels of the patch per voxel of each level and axis, bottleneck first.
        has_regions: outputs are overlapping regions, not classes.
        memory: bytes that the device has in all.
    """

    level_voxels: tuple[int, ...]
    batch_size: int
    n_structures: int
    patch_size: tuple[int, ...]
    level_strides: tuple[tuple[int, ...], ...]
    has_regions: bool = False
    memory: int = sys.maxsize


@dataclass(frozen=True)
class Facts:
    """What a regularizer may know of the training it takes part in.

    Attributes:
        levels: channels and strides of the network's levels, bottleneck first.
        patch_size: voxels per axis of a patch.
        spacing: millimetres per axis of a patch.
        batch_size: labelled patches a step (of this process).
        n_structures: classes without background, or regions.
        has_regions: outputs are overlapping regions (sigmoid), not classes (softmax).
        mirror_axes: spatial axes that nnU-Net mirrors, here and at inference.
        in_plane: nnU-Net augments slice by slice, since the first axis is much coarser than the others.
        ignore_label: the value of voxels without a label in a target of classes; None where there is none.
        regions: the labels of each region, where outputs are regions.
        one_piece: tells which structures (classes but background, or regions, from 1) come in one piece in patches of
            the labelled cases, which it reads when it is called.
        num_epochs: length of the training.
    """

    levels: Levels
    patch_size: tuple[int, ...]
    spacing: tuple[float, ...]
    batch_size: int
    n_structures: int
    has_regions: bool
    mirror_axes: tuple[int, ...]
    in_plane: bool = False
    ignore_label: int | None = None
    regions: tuple[tuple[int, ...], ...] = ()
    one_piece: Callable[[], tuple[int, ...]] = tuple
    num_epochs: int = 1000

    @property
    def dim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.patch_size)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities (softmax) or region probabilities (sigmoid) of logits [B, C, *spatial], in float32."""
        return logits.float().sigmoid() if self.has_regions else logits.float().softmax(dim=1)

    def answer(self, logits: Tensor) -> Tensor:
        """The decision of logits [B, C, *spatial] as 0 and 1 of the same shape, in float32."""
        if self.has_regions:
            return (logits > 0).float()
        return torch.zeros_like(logits, dtype=torch.float32).scatter_(1, logits.argmax(dim=1, keepdim=True), 1)

    def confidence(self, p: Tensor) -> Tensor:
        """Probability of the decision: [B, 1, *spatial] of classes, [B, C, *spatial] of regions."""
        return torch.maximum(p, 1 - p) if self.has_regions else p.amax(dim=1, keepdim=True)

    def truth(self, target: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """nnU-Net's target at full resolution as 0 and 1 [B, C, *spatial], and where it is known, bool [B, 1, ...]."""
        if self.has_regions:
            return target[:, :classes].float(), self.known(target, classes)
        known = self.known(target, classes)
        return self._one_hot(torch.where(known, target, 0), classes) * known, known

    def known(self, target: Tensor, classes: int) -> Tensor:
        """Where nnU-Net's target, of any resolution, bears a label: bool [B, 1, *spatial]."""
        if self.has_regions:
            # With an ignore label the target has one channel more, which marks it.
            return (target[:, classes:] == 0).all(dim=1, keepdim=True)
        return torch.ones_like(target, dtype=torch.bool) if self.ignore_label is None else target != self.ignore_label

    def pseudo_truth(self, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """A label map [B, 1, *spatial] with negative values where it is unknown, in the form of `truth`."""
        known = labels >= 0
        if self.has_regions:
            members = [torch.isin(labels, torch.tensor(region, device=labels.device)) for region in self.regions]
            return torch.cat(members, dim=1).float(), known
        return self._one_hot(labels.clamp_min(0), classes) * known, known

    def classes(self, target: Tensor) -> Tensor:
        """nnU-Net's target at full resolution as one class per voxel, [B, 1, *spatial], -1 where it is unknown.

        A voxel of several regions belongs to the last one, as where nnU-Net paints them in `regions_class_order`, which
        lists them in the order of the outputs; its class is that region's number from 1, and 0 outside of all.
        """
        if self.has_regions:
            known = (target[:, self.n_structures :] == 0).all(dim=1, keepdim=True)
            return torch.where(known, _last_of(target[:, : self.n_structures] > 0), -1)
        return target if self.ignore_label is None else torch.where(target == self.ignore_label, -1, target)

    def pseudo_classes(self, labels: Tensor) -> Tensor:
        """A label map [B, 1, *spatial] with negative values where it is unknown, in the form of `classes`."""
        if not self.has_regions:
            return labels
        members, known = self.pseudo_truth(labels, self.n_structures)
        return torch.where(known, _last_of(members > 0), -1)

    def answered_classes(self, logits: Tensor) -> Tensor:
        """The decision of logits [B, C, *spatial] in the form of `classes`."""
        return _last_of(logits > 0) if self.has_regions else logits.argmax(dim=1, keepdim=True)

    def _one_hot(self, labels: Tensor, classes: int) -> Tensor:
        zeros = torch.zeros((labels.shape[0], classes, *labels.shape[2:]), device=labels.device)
        return zeros.scatter_(1, labels.long(), 1)

    def foreground(self, logits: Tensor) -> Tensor:
        """Where anything but background is predicted: bool [B, 1, *spatial]."""
        if self.has_regions:
            return (logits > 0).any(dim=1, keepdim=True)
        # As argmax > 0, several times faster on a CPU.
        return logits[:, 1:].amax(dim=1, keepdim=True) > logits[:, :1]


def _last_of(regions: Tensor) -> Tensor:
    """Number from 1 of the last region [B, R, *spatial] that holds a voxel, 0 where none does."""
    shape = (1, -1, *(1,) * (regions.ndim - 2))
    numbers = torch.arange(1, regions.shape[1] + 1, device=regions.device).view(shape)
    return (regions * numbers).amax(dim=1, keepdim=True)


@dataclass(frozen=True)
class Labeled:
    """The labelled batch of the same step.

    Attributes:
        images: [B, C, *spatial], as nnU-Net augmented them.
        target: nnU-Net's target at full resolution, [B, 1, *spatial] of classes or [B, R, *spatial] of regions.
        features: the student's at the last decoder stage, [B, C, *spatial], with gradient, from the pass that the
            supervised loss is computed on; present where the regularizer asks for them.
    """

    images: Tensor
    target: Tensor
    features: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """One unlabelled step, as a regularizer sees it.

    Attributes:
        views: a batch of patches [B, C, *spatial] for each entry of the regularizer's `views`: one geometry,
            independent intensity draws.
        valid: False where a patch lies outside its image, [B, 1, *spatial]; None where nothing does.
        student: the network that is trained, with gradient.
        teacher: its EMA copy, without gradient; present where the regularizer asks for it.
        second_decoder: another decoder on its encoder, without gradient; present where the regularizer asks for it.
        peer: the second network, with gradient; present where the regularizer asks for it.
        labeled: the labelled batch, whose supervised loss is not the regularizer's business; None in a pre-training
            without labels.
        pseudo_label: the stored label map of the patches, [B, 1, *spatial], -1 where unknown; present where the
            regularizer has `rounds`.
        progress: share of the epochs that are over, in [0, 1).
        number: optimiser steps before this one, the same in all processes.
        generator: CPU generator of the regularizer's own draws.
        reduce: sums a tensor over all processes, with gradient; the identity in a single process.
        settle: takes the name of a term and a part of it whose graph is needed by nothing else, and returns what to add
            to the term in its place. A training takes the part's gradients at once and frees its graph, so that a term
            of many parts needs the memory of one.
    """

    views: tuple[Tensor, ...]
    valid: Tensor | None
    student: Forward
    teacher: Forward | None
    second_decoder: Forward | None
    peer: Forward | None
    labeled: Labeled | None
    pseudo_label: Tensor | None
    progress: float
    number: int
    generator: torch.Generator
    reduce: Callable[[Tensor], Tensor]
    settle: Callable[[str, Tensor], Tensor] = lambda _, part: part


@dataclass(frozen=True)
class Outcome:
    """What a regularizer returns: unweighted scalar terms with gradient, and detached signs of life, by name.

    A term that is made of settled parts has its gradient behind it.
    A sign is nan where a step has nothing to measure; such steps do not count in the mean of an epoch.
    """

    terms: dict[str, Tensor]
    signs: dict[str, Tensor] = field(default_factory=dict)


class Regularizer(nn.Module, ABC):
    """A method's unlabelled terms, with the heads that they need.

    Parameters of a regularizer are heads: they are trained by an AdamW of their own, stored in the checkpoint beside
    the network, and never reach inference.
    """

    Settings: ClassVar[type[AnySettings]]
    """The settings that the method accepts; the values stand in `plans/<method>.toml`."""

    views: Sequence[View] = ("stock", "stock")
    """Kinds of the views that a step needs of each unlabelled patch, in this order."""

    gradient_views: int = 1
    """How many of them go through the student with gradient: the unlabelled batch is sized by it."""

    ema_decay: float | None = None
    """Decay of the EMA teacher that the regularizer asks for; None: it needs none."""

    needs_peer: bool = False
    """Whether it asks for a second network, built, supervised and optimised as nnU-Net's own."""

    needs_labeled_features: bool = False
    """Whether it asks for the student's features of the labelled batch."""

    needs_second_decoder: bool = False
    """Whether it asks for a second decoder on the student's encoder, optimised as nnU-Net's own network."""

    rounds: RoundSettings | None = None
    """How often the unlabelled cases are predicted and stored as pseudo-labels; None: never."""

    sign_names: Sequence[str] = ()
    """Names of the signs of life in every `Outcome`: columns of the log."""

    def __init__(self, settings: Any, facts: Facts) -> None:
        """Build the heads for resolved settings."""
        super().__init__()
        self.settings = settings
        self.facts = facts

    @classmethod
    def check(cls, settings: Any, outline: Outline) -> None:
        """Refuse, before anything is written, settings that do not fit network or dataset. Default: none.

        Raises SemiSupervisedError.
        """
        return

    @classmethod
    def resolve(cls, settings: Any, facts: Facts) -> Any:
        """Settings with the method's own "auto" values replaced by numbers. Default: there are none."""
        return settings

    @property
    @abstractmethod
    def weights(self) -> Mapping[str, float]:
        """Full weight of every term, by name. A term of weight 0 need not be computed."""

    @abstractmethod
    def forward(self, step: Step) -> Outcome:
        """The terms of one step. Empty cases give a zero that is attached to the graph."""

    def alarms(self, signs: Mapping[str, float]) -> list[str]:
        """Sentences about what an epoch's mean signs of life say is wrong. Default: none."""
        return []


def refuse_common_terms(regularizers: Sequence[Regularizer]) -> None:
    """Raise SemiSupervisedError where two methods of a training have a term of the same name."""
    owners: dict[str, str] = {}
    for regularizer in regularizers:
        name = type(regularizer).__name__
        for term in regularizer.weights:
            if owner := owners.get(term):
                raise SemiSupervisedError(
                    f"{owner} and {name} both have a term {term} and cannot take part in one training; leave one out"
                )
            owners[term] = name

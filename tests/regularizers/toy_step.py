"""A step without a trainer: a small network of nnU-Net's, random views, a fixed generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_semisup.configuration.sources import merged, preset
from nnunetv2_semisup.methods import methods, trainer_class
from nnunetv2_semisup.networks.ema import make_teacher
from nnunetv2_semisup.networks.features import Levels, forward_with_features
from nnunetv2_semisup.networks.second_decoder import on_one_encoder
from nnunetv2_semisup.regularizers.base import Facts, Forward, Labeled, Outline, Regularizer, Step
from tests.networks.networks import plain


def facts_of(network: nn.Module, dim: int = 3, mirror_axes: tuple[int, ...] | None = None, **changes: Any) -> Facts:
    values: dict[str, Any] = {
        "levels": Levels.of(network),
        "patch_size": (16,) * dim,
        "spacing": (1.0,) * dim,
        "batch_size": 2,
        "has_regions": False,
        "mirror_axes": tuple(range(dim)) if mirror_axes is None else mirror_axes,
        "regions": ((1, 2), (1,), (2,)),
    }
    values |= changes
    return Facts(n_structures=3 if values["has_regions"] else 2, **values)


def outline_of(facts: Facts, n_structures: int = 2) -> Outline:
    """What is known before a training with these facts."""
    strides = facts.levels.strides
    voxels = tuple(math.prod(size // s for size, s in zip(facts.patch_size, level, strict=True)) for level in strides)
    return Outline(voxels, facts.batch_size, n_structures, facts.patch_size, strides)


def build(method: str, facts: Facts, changes: dict[str, Any] | None = None, seed: int = 0) -> Regularizer:
    """The method's regularizer, from its preset with changes."""
    trainer: Any = trainer_class(methods()[method])
    (regularizer,) = trainer.regularizers
    settings = trainer.settings_model().parse(merged(preset(method), changes or {}), origin="test")
    torch.manual_seed(seed)
    return regularizer(regularizer.resolve(settings, facts), facts)


def step_of(
    network: nn.Module,
    regularizer: Regularizer,
    views: tuple[Tensor, ...],
    valid: Tensor | None = None,
    teacher: nn.Module | None = None,
    seed: int = 0,
    reduce: Any = lambda joint: joint,
    second_decoder: nn.Module | None = None,
    peer: nn.Module | None = None,
    labeled: Labeled | None = None,
    progress: float = 0.5,
    number: int = 0,
    stored: Tensor | None = None,
) -> Step:
    if regularizer.ema_decay is not None and teacher is None:
        teacher = make_teacher(network)

    if regularizer.needs_second_decoder and second_decoder is None:
        second_decoder = on_one_encoder(network, network_of(regularizer.facts.dim, seed=9))
    labeled = labeled_batch(regularizer.facts) if labeled is None else labeled
    if regularizer.needs_labeled_features:
        _, (features,) = forward_with_features(network, labeled.images, (-1,))
        labeled = replace(labeled, features=features)
    if regularizer.rounds is not None and stored is None:
        stored = pseudo_label(regularizer.facts, len(views[0]))
    if regularizer.needs_peer and peer is None:
        peer = network_of(regularizer.facts.dim, seed=9)
    return Step(
        views=views,
        valid=valid,
        student=partial(forward_with_features, network),
        teacher=None if teacher is None else _without_gradient(teacher),
        second_decoder=None if second_decoder is None else _without_gradient(second_decoder),
        peer=None if peer is None else partial(forward_with_features, peer),
        labeled=labeled,
        pseudo_label=stored,
        progress=progress,
        number=number,
        generator=torch.Generator().manual_seed(seed),
        reduce=reduce,
    )


def _without_gradient(network: nn.Module) -> Forward:
    @torch.no_grad()
    def forward(x: Tensor, taps: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        return forward_with_features(network, x, taps)

    return forward


def random_views(dim: int = 3, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two intensity draws of one smooth random image."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 2, *[4] * dim, generator=generator)
    image = nn.functional.interpolate(coarse, size=[16] * dim, mode="trilinear" if dim == 3 else "bilinear")
    noise = [0.05 * torch.randn(image.shape, generator=generator) for _ in range(2)]
    return image + noise[0], 1.1 * image + noise[1]


def labeled_batch(facts: Facts, batch: int = 2, value: int | None = None) -> Labeled:
    """Random images, and random labels in the form of nnU-Net's targets, or this value everywhere."""
    generator = torch.Generator().manual_seed(11)
    size = (16,) * facts.dim
    images = torch.randn(batch, 2, *size, generator=generator)
    shape, top = ((batch, 3, *size), 2) if facts.has_regions else ((batch, 1, *size), 3)
    labels = torch.randint(top, shape, generator=generator)
    return Labeled(images, (labels if value is None else torch.full_like(labels, value)).to(torch.int16))


def pseudo_label(facts: Facts, batch: int) -> Tensor:
    """Random stored labels 0 to 2, unknown in places."""
    generator = torch.Generator().manual_seed(12)
    return torch.randint(-1, 3, (batch, 1, *(16,) * facts.dim), generator=generator).to(torch.int16)


def network_of(dim: int = 3, seed: int = 0, norm: bool = True) -> nn.Module:
    return plain(dim, deep_supervision=False, norm=norm, seed=seed)

"""Several views of one crop: one geometry, independent intensities.

nnU-Net's trainer returns its augmentation as one pipeline. Here the pipeline is taken apart by the type of its
transforms, so that the voxels of two views coincide while their intensities are drawn independently, each view as
strongly as its kind says.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform, SegOnlyTransform
from batchgeneratorsv2.transforms.nnunet.seg_to_onehot import MoveSegAsOneHotToDataTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.spatial.transpose import TransposeAxesTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform

from nnunetv2_semisup.data.geometry import WHOLLY_INSIDE
from nnunetv2_semisup.errors import SemiSupervisedError

View = Literal["plain", "stock", "strong"]
"""How a view's intensities are drawn: not at all; as nnU-Net augments; with every random step as likely as not."""

_STRONG = 0.5
"""Probability of every random intensity transform in a strong view. nnU-Net's own lie between 0.1 and 0.3."""


@dataclass
class ViewTransforms:
    """A trainer's augmentation, taken apart. Each list is applied in order.

    Attributes:
        geometry: moves voxels; drawn once for all views.
        intensity: changes image values only; drawn anew for each view.
        strong: the same, each random step with a probability of at least one half.
        masking: sets the image to 0 outside the nonzero region, for channels normalised inside it.
    """

    geometry: list[BasicTransform] = field(default_factory=list)
    intensity: list[BasicTransform] = field(default_factory=list)
    strong: list[BasicTransform] = field(default_factory=list)
    masking: list[BasicTransform] = field(default_factory=list)


class _Kind(Enum):
    GEOMETRY = auto()
    INTENSITY = auto()
    MASKING = auto()
    LABEL = auto()


_KINDS: tuple[tuple[type[BasicTransform], _Kind], ...] = (
    (SpatialTransform, _Kind.GEOMETRY),
    (MirrorTransform, _Kind.GEOMETRY),
    (Rot90Transform, _Kind.GEOMETRY),
    (TransposeAxesTransform, _Kind.GEOMETRY),
    (Convert3DTo2DTransform, _Kind.GEOMETRY),
    (Convert2DTo3DTransform, _Kind.GEOMETRY),
    (MaskImageTransform, _Kind.MASKING),
    # By their contract these leave every voxel (or the image) where it is, whoever wrote the subclass.
    (ImageOnlyTransform, _Kind.INTENSITY),
    (SegOnlyTransform, _Kind.LABEL),
)


def split_transforms(transform: BasicTransform) -> ViewTransforms:
    """Take apart what a trainer's `get_training_transforms` returned.

    Transforms are told apart by type, also inside RandomTransform, OneOfTransform and ComposeTransforms; those
    that change labels only are dropped. The parts are copies: what a transform remembers between calls is not
    shared with the labelled pipeline, and no transform's result depends on timing.

    Raises:
        SemiSupervisedError: a transform of an unknown type, or one random choice between different kinds.
        NotImplementedError: the pipeline of a cascade's second stage, which needs segmentations as input.
    """
    parts = ViewTransforms()
    slicewise = False
    for step in _steps(transform):
        kind = _kind(step)
        if slicewise and kind is not _Kind.GEOMETRY:
            raise SemiSupervisedError(
                f"{type(step).__name__} stands between Convert3DTo2DTransform and Convert2DTo3DTransform, so geometry "
                "and intensity cannot be separated; move it behind Convert2DTo3DTransform in get_training_transforms"
            )
        slicewise = isinstance(step, Convert3DTo2DTransform) or (
            slicewise and not isinstance(step, Convert2DTo3DTransform)
        )
        if kind is _Kind.GEOMETRY:
            parts.geometry.append(without_timing(deepcopy(step)))
        elif kind is _Kind.INTENSITY:
            parts.intensity.append(without_timing(deepcopy(step)))
            parts.strong.append(_stronger(without_timing(deepcopy(step))))
        elif kind is _Kind.MASKING:
            parts.masking.append(without_timing(deepcopy(step)))
    return parts


def make_views(
    image: torch.Tensor,
    nonzero: torch.Tensor,
    valid: torch.Tensor,
    transforms: ViewTransforms,
    kinds: Sequence[View],
    pseudo_label: torch.Tensor | None = None,
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor | None]:
    """Draw one geometry, and intensities for each view of it.

    Draws from the global generators: call it inside `RandomStreams.active()`.

    Args:
        image: [C, *S], float32.
        nonzero: [1, *S], integer, 0 inside the nonzero region and -1 outside, as nnU-Net stores it.
        valid: [1, *S], bool, False where the crop was padded.
        transforms: from `split_transforms`.
        kinds: of the views, at least one.
        pseudo_label: [1, *S], integer labels that shall move with the voxels, or None.

    Returns:
        The views in that order, each [C, *P] with the same voxels; a bool mask [1, *P] that is True where a view
        shows real voxels only, neither padding of the crop nor what the geometry brought in from outside of it; and
        the pseudo-label [1, *P], -1 where the geometry brought in something from outside, if there is one.
    """
    # As a regression target the mask is resampled exactly as the image is, so its value is the weight of real voxels.
    sample = {"image": image, "regression_target": valid.float()}
    # The masking transforms look at the first channel.
    moving = [nonzero] if pseudo_label is None else [nonzero, pseudo_label.to(nonzero.dtype)]
    if transforms.masking or pseudo_label is not None:
        sample["segmentation"] = torch.cat(moving)
    for transform in transforms.geometry:
        sample = transform(**sample)
    views = []
    intensities = {"plain": [], "stock": transforms.intensity, "strong": transforms.strong}
    for kind in kinds:
        # Intensity transforms write into the image they are given.
        view = {**sample, "image": sample["image"].clone()}
        for transform in (*intensities[kind], *transforms.masking):
            view = transform(**view)
        views.append(view["image"])
    moved = None if pseudo_label is None else sample["segmentation"][1:]
    return views, sample["regression_target"] > WHOLLY_INSIDE, moved


def _steps(transform: BasicTransform) -> list[BasicTransform]:
    """The pipeline as a flat list; random wrappers stay whole."""
    if isinstance(transform, ComposeTransforms):
        return [step for inner in transform.transforms for step in _steps(inner)]
    return [transform]


def _held(wrapper: BasicTransform) -> list[BasicTransform]:
    """What a wrapper holds; nothing for any other transform."""
    if isinstance(wrapper, RandomTransform):
        return [wrapper.transform]
    if isinstance(wrapper, OneOfTransform):
        return list(wrapper.list_of_transforms)
    return list(wrapper.transforms) if isinstance(wrapper, ComposeTransforms) else []


def _stronger(transform: BasicTransform) -> BasicTransform:
    """The same transform with every random step in it at least as likely as not."""
    pending = [transform]
    while pending:
        step = pending.pop()
        pending += _held(step)
        if isinstance(step, RandomTransform):
            step.apply_probability = max(step.apply_probability, _STRONG)
    return transform


def _kind(transform: BasicTransform) -> _Kind:
    held = _held(transform)
    if held:
        kinds = {_kind(inner) for inner in held}
        if len(kinds) != 1:
            raise SemiSupervisedError(
                f"one {type(transform).__name__} in get_training_transforms holds transforms of different kinds "
                f"({', '.join(type(inner).__name__ for inner in held)}); give each kind a wrapper of its own"
            )
        return kinds.pop()
    if isinstance(transform, MoveSegAsOneHotToDataTransform):
        raise NotImplementedError(
            "the second stage of a cascade takes the first stage's segmentation as input, which unlabelled cases lack"
        )
    for known, kind in _KINDS:
        if isinstance(transform, known):
            return kind
    raise SemiSupervisedError(
        f"cannot tell whether {type(transform).__name__} in get_training_transforms moves voxels; derive it from "
        "batchgeneratorsv2's ImageOnlyTransform, SegOnlyTransform or SpatialTransform"
    )


def without_timing(transform: BasicTransform) -> BasicTransform:
    """The same transform, changed so that the random numbers alone decide its result, and not the machine's load."""
    pending = [transform]
    while pending:
        step = pending.pop()
        pending += _held(step)
        if isinstance(step, GaussianBlurTransform):
            # Stock's blur times convolution against FFT and keeps the faster; for its sigmas that is the convolution.
            step.benchmark = False
    return transform

"""Boundary-aware information maximisation (Peng et al. 2024): clusters that two views share and that end at edges."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nnunetv2_semisup.configuration.settings import (
    Auto,
    Count,
    PretrainingSettings,
    Section,
    SemiSupervisedSettings,
    Share,
    Weight,
)
from nnunetv2_semisup.configuration.settings import Settings as AnySettings
from nnunetv2_semisup.data.contrast import draw_exponents, gamma_contrast
from nnunetv2_semisup.data.geometry import WHOLLY_INSIDE, AffineRange, draw_geometry
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.losses.assignments import joint_and_entropies
from nnunetv2_semisup.losses.boundary import boundary_loss, released_boundary_loss
from nnunetv2_semisup.losses.edges import edge_map
from nnunetv2_semisup.losses.entropy import shannon_entropy
from nnunetv2_semisup.losses.mutual_information import joint_probabilities, mutual_information
from nnunetv2_semisup.losses.regularised_information import regularised_mi_of_joint
from nnunetv2_semisup.networks.heads import ClusterHead, HeadKind
from nnunetv2_semisup.networks.pooling import mostly
from nnunetv2_semisup.regularizers.base import Facts, Outcome, Outline, Regularizer, Step
from nnunetv2_semisup.regularizers.taps import refuse_missing_taps, refuse_other_axes, spacing_at, window_radius

SLAB_VOXELS = 8192
"""Voxels of a sample that are assigned to clusters at a time, on a CPU: their K maps shall stay in its cache."""
SLAB_VOXELS_ON_DEVICE = 2**17
"""As many on a GPU, which starts some hundred kernels a slab and needs many voxels to be occupied."""

LEAST_SHARE = 0.1
"""A cluster counts as used from this share of its fair part (1/K of the voxels) on."""


class ClustersSettings(Section):
    """The clusters, and the features that they are made of."""

    tap: int = Field(description="Level whose features are clustered: -1 is the last decoder stage, 0 the bottleneck.")
    count: Annotated[int, Field(ge=2)] = Field(description="Clusters K of every head.")
    sub_heads: Count = Field(description="Independent heads, whose losses are averaged.")
    in_turn: bool = Field(
        description="One sub-head a step, in turn, in place of all: on average the same gradient, for a share of the "
        "cost."
    )
    head: HeadKind = Field(description="Form of the heads: one 1x1 convolution, or two.")


class InformationSettings(Section):
    """Regularised mutual information of the two views' clusters."""

    weight: Weight = Field(description="Weight of the regularised mutual information.")
    alpha: Share = Field(
        description="Share of the target I/K (balanced clusters that agree between the views); 0 is plain mutual "
        "information."
    )
    balance: Weight = Field(description="Weight lambda of the marginal entropies.")


class BoundarySettings(Section):
    """Correlation of the clusters' boundaries with the image's edges."""

    weight: Weight = Field(description="Weight of the boundary correlation.")
    form: Literal["masked", "released"] = Field(
        description='"masked": windows without edges do not count. "released": as the authors\' code, where flat '
        "windows earn full reward; for comparison."
    )
    radius: list[Annotated[int, Field(ge=0, le=7)]] | Auto = Field(
        description='Half the window per axis in voxels of the tap, in the form "masked". "auto": 2 along the finest '
        "axis, as far in millimetres along the others."
    )
    gamma: Annotated[float, Field(gt=0, le=4)] = Field(description="Exponent of the edges; below 1 lifts weak ones.")
    flat: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        description="Windows in which the edges' standard deviation is at most this share of a patch's strongest edge "
        'do not count, in the form "masked": noise is no border.'
    )


class TransformSettings(Section):
    """What the second view undergoes, beside flips along the axes that nnU-Net mirrors."""

    rotation: Annotated[float, Field(ge=0, le=180)] = Field(description="Largest rotation about each axis in degrees.")
    scale: list[Annotated[float, Field(ge=0.5, le=2)]] = Field(description="Smallest and largest magnification.")
    translation: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        description="Largest shift along each axis, as a share of the patch."
    )
    gamma: list[Annotated[float, Field(gt=0, le=4)]] = Field(
        description="Smallest and largest exponent of the contrast."
    )

    @model_validator(mode="after")
    def _are_ranges(self) -> TransformSettings:
        for name in ("scale", "gamma"):
            values = getattr(self, name)
            if len(values) != 2 or values[0] > values[1]:
                raise ValueError(f"transform.{name} needs two numbers, the smaller first, and is {values}")
        return self


class BIMTerms(Section):
    """The settings of the losses, in a pre-training and beside supervised training alike."""

    clusters: ClustersSettings
    information: InformationSettings
    boundary: BoundarySettings
    transform: TransformSettings


class BIMSettings(BIMTerms, SemiSupervisedSettings):
    """Settings of nnUNetTrainerBIM."""


class BIMPretrainSettings(BIMTerms, PretrainingSettings):
    """Settings of nnUNetTrainerBIMPretrain."""


class BIM(Regularizer):
    """Regularised mutual information of two views' clusters, and correlation of their boundaries with the edges.

    The second view gets a contrast, flips and a small affine map; the first one's features get the same geometry, and
    both are assigned to clusters by the same heads. Voxels that came in from outside the patch count in neither term.

    Departures from paper and released code are listed in docs/explanation/bim.md.
    """

    Settings: ClassVar[type[AnySettings]] = BIMSettings
    gradient_views = 2
    sign_names = ("nats", "marginal_entropy", "used", "stability", "boundary_correlation")

    def __init__(self, settings: BIMTerms, facts: Facts) -> None:
        """Build the heads for resolved settings. They differ by their initial weights alone."""
        super().__init__(settings, facts)
        clusters = settings.clusters
        channels = facts.levels.channels[clusters.tap]
        self.heads: Any = nn.ModuleList(
            ClusterHead(channels, clusters.count, clusters.head, facts.dim) for _ in range(clusters.sub_heads)
        )
        self._spacing = spacing_at(clusters.tap, facts)
        transform = settings.transform
        self._affine = AffineRange(
            transform.rotation, (transform.scale[0], transform.scale[1]), transform.translation, facts.in_plane
        )

    @classmethod
    def check(cls, settings: BIMTerms, outline: Outline) -> None:
        """Refuse a tap that the network does not have, and more clusters than voxels to assign."""
        clusters = settings.clusters
        refuse_missing_taps("clusters.tap", [clusters.tap], outline)
        refuse_other_axes("boundary.radius", settings.boundary.radius, outline)
        voxels = outline.batch_size * outline.level_voxels[clusters.tap]
        if clusters.count > voxels:
            raise SemiSupervisedError(
                f"clusters.count = {clusters.count} is not allowed: a batch has {voxels} voxels at clusters.tap = "
                f"{clusters.tap}; lower it, or cluster a finer level"
            )

    @classmethod
    def resolve(cls, settings: BIMTerms, facts: Facts) -> BIMTerms:
        """Windows from the spacing."""
        if settings.boundary.radius != "auto":
            return settings
        radius = window_radius(2, spacing_at(settings.clusters.tap, facts))
        return settings.model_copy(update={"boundary": settings.boundary.model_copy(update={"radius": radius})})

    @property
    def weights(self) -> Mapping[str, float]:
        """Two terms."""
        return {"information": self.settings.information.weight, "boundary": self.settings.boundary.weight}

    def forward(self, step: Step) -> Outcome:
        """Both terms, averaged over the sub-heads."""
        first, second = step.views
        n = len(first)
        geometry = draw_geometry(
            n, self.facts.patch_size, step.generator, self.facts.mirror_axes,
            affine=self._affine, spacing=self.facts.spacing,
        )  # fmt: skip
        exponents = draw_exponents(n, self.settings.transform.gamma, step.generator)
        image = geometry(gamma_contrast(second, exponents))
        valid = geometry.valid(image) if step.valid is None else geometry(step.valid)
        _, (features,) = step.student(torch.cat([first, image]), [self.settings.clusters.tap])
        moved, features = torch.split(features, n)
        moved = geometry(moved)
        size = features.shape[2:]
        if image.shape[2:] != size:
            image = F.interpolate(image, size=size, mode="trilinear" if len(size) == 3 else "bilinear")
            # Features were resampled on their own grid, whose voxels mix in what is outside from farther away.
            known = torch.ones_like(valid) if step.valid is None else step.valid
            valid = geometry(mostly(known, size, WHOLLY_INSIDE)) & mostly(valid, size, WHOLLY_INSIDE)
        compare = partial(self._compare, valid=valid, boundary_of=self._boundary_of(image, valid), reduce=step.reduce)
        turn = [self.heads[step.number % len(self.heads)]] if self.settings.clusters.in_turn else self.heads
        results = [compare(head, moved, features) for head in turn]
        means = [torch.stack(values).mean() for values in zip(*results, strict=True)]
        terms = dict(zip(self.weights, means[:2], strict=True))
        signs = dict(zip(self.sign_names, (*means[2:], -means[1].detach()), strict=True))
        return Outcome({name: term for name, term in terms.items() if self.weights[name] > 0}, signs)

    def _compare(
        self,
        head: ClusterHead,
        moved: Tensor,
        features: Tensor,
        valid: Tensor,
        boundary_of: Callable[[Tensor], Tensor],
        reduce: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, ...]:
        """The two losses of one sub-head, then its signs of life but the last."""
        settings = self.settings
        joint, *entropies = _assign(head, moved, features, valid)
        joint = reduce(joint)
        information = regularised_mi_of_joint(joint, settings.information.alpha, settings.information.balance)
        if settings.boundary.weight == 0:  # still a sign of life, without the cost of its gradient
            entropies = [entropy.detach() for entropy in entropies]
        boundary = torch.stack([boundary_of(entropy) for entropy in entropies]).mean()
        with torch.no_grad():
            p = joint_probabilities(joint)
            margin = p.sum(0)
            k = len(margin)
            signs = (
                mutual_information(joint),
                shannon_entropy(margin, dim=0) / math.log(k),
                (margin * k > LEAST_SHARE).float().mean(),
                p.trace(),
            )
        return information, boundary, *signs

    def _boundary_of(self, image: Tensor, valid: Tensor) -> Callable[[Tensor], Tensor]:
        """The boundary loss of an assignment's entropy in this image, whose edges are computed once."""
        settings = self.settings.boundary
        if settings.form == "released":
            return lambda entropy: released_boundary_loss(entropy, image, settings.gamma)
        edges, known = edge_map(image, self._spacing, settings.gamma, valid)
        return lambda entropy: boundary_loss(entropy, edges, settings.radius, known, settings.flat)

    def alarms(self, signs: Mapping[str, float]) -> list[str]:
        """Collapse of the clusters."""
        if signs["marginal_entropy"] >= LEAST_SHARE:
            return []
        return [
            f"the clusters have collapsed (marginal entropy {signs['marginal_entropy']:.2f} of its maximum, "
            f"{signs['used']:.0%} of them used): nothing is learned; try a larger information.balance or "
            "information.alpha, or a lower learning rate"
        ]


class BIMPretrain(BIM):
    """The same losses alone, without any label."""

    Settings = BIMPretrainSettings

    @classmethod
    def check(cls, settings: BIMTerms, outline: Outline) -> None:
        """As beside supervised training; and something must be learned."""
        super().check(settings, outline)
        if settings.information.weight == settings.boundary.weight == 0:
            raise SemiSupervisedError(
                "information.weight and boundary.weight are both 0, so there is nothing to learn; set one of them"
            )


def _assign(head: ClusterHead, moved: Tensor, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Joint [K, K] of a head's assignments of two maps, and the entropy [B, 1, *spatial] of either.

    Slab by slab, each made anew in the backward: the maps of K clusters, the largest tensors of a step, never exist
    as a whole.
    """
    slabs = zip(*(torch.split(x, _slab_planes(x), dim=2) for x in (moved, features, valid)), strict=True)
    parts = [checkpoint(_assign_slab, head, *slab, use_reentrant=False, preserve_rng_state=False) for slab in slabs]
    joints, first, second = zip(*parts, strict=True)
    return torch.stack(joints).sum(0), torch.cat(first, dim=2), torch.cat(second, dim=2)


def _slab_planes(maps: Tensor) -> int:
    """How many planes of [B, C, *S] make a slab."""
    voxels = SLAB_VOXELS if maps.device.type == "cpu" else SLAB_VOXELS_ON_DEVICE
    return max(voxels // maps.shape[3:].numel(), 1)


def _assign_slab(head: ClusterHead, moved: Tensor, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return joint_and_entropies(head.logits(moved), head.logits(features), valid)

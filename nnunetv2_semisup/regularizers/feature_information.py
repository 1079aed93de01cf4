"""Mutual information between the features of two views: settings, heads, and the terms of every tap."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nnunetv2_semisup.configuration.settings import Auto, Count, Section, Weight
from nnunetv2_semisup.data.geometry import Geometry
from nnunetv2_semisup.losses.mutual_information import global_mi_loss, local_mi_loss, marginal_entropy
from nnunetv2_semisup.networks.heads import ClusterHead, HeadKind
from nnunetv2_semisup.networks.pooling import mostly, regional_means
from nnunetv2_semisup.regularizers.base import Facts
from nnunetv2_semisup.regularizers.taps import BOTTLENECK, window_radius

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
        description='Largest displacement per axis in voxels of the tap. "auto": 1 along axes whose spacing in the '
        "patch is less than twice the finest, else 0."
    )

    @model_validator(mode="after")
    def _one_share_per_tap(self) -> MISettings:
        if len(self.shares) != len(self.taps):
            raise ValueError("mi.shares needs one number per entry of mi.taps")
        if len(set(self.taps)) != len(self.taps):
            raise ValueError(f"mi.taps names a level twice: {self.taps}")
        return self

    def resolved(self, facts: Facts) -> MISettings:
        """With windows from the spacing: the same reach in millimetres along every axis, as far as voxels allow."""
        if self.radius != "auto":
            return self
        return self.model_copy(update={"radius": window_radius(1, facts.spacing)})


class FeatureInformation(nn.Module):
    """Negative MI between two views' features at each tap of positive weight (Peng et al., MELBA 2021:009).

    Attributes:
        weights: of each tap's term, by name: `weight` split by `shares`.
        taps: those of positive weight.
        sign_names: names of the signs of life, two per tap: the MI in nats, and the entropy of the clusters' marginal
            as a share of its maximum.
    """

    def __init__(self, settings: MISettings, facts: Facts) -> None:
        """Build the heads for resolved settings. A tap's sub-heads differ by their initial weights alone."""
        super().__init__()
        self.settings = settings
        total = sum(settings.shares)
        self.weights = {
            term_of(tap): settings.weight * share / total
            for tap, share in zip(settings.taps, settings.shares, strict=True)
            if total > 0
        }
        self.taps = [tap for tap in settings.taps if self.weights.get(term_of(tap), 0) > 0]
        self.sign_names = [f"{term_of(tap)}_{what}" for tap in self.taps for what in ("nats", "entropy")]
        channels = facts.levels.channels
        self.heads = nn.ModuleDict(
            {
                term_of(tap): nn.ModuleList(
                    ClusterHead(channels[tap], settings.clusters, settings.head, facts.dim)
                    for _ in range(settings.sub_heads)
                )
                for tap in self.taps
            }
        )

    def forward(
        self,
        references: Sequence[Tensor],
        features: Sequence[Tensor],
        geometry: Geometry,
        shared: Tensor | None,
        reduce: Callable[[Tensor], Tensor],
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Terms and signs, by name.

        Args:
            references: of the first view, [B, C, *spatial of the level] per tap.
            features: of the second view, which is the first one's transform.
            geometry: what brings the first view's features to the second's. Only flips and turns: they change places
                with a head, which spares a transformed copy of the features.
            shared: where both views show the same, [B, 1, *patch], in the second view's frame; None for everywhere.
            reduce: sums joints over all processes.
        """
        terms, signs = {}, {}
        for tap, reference, feature in zip(self.taps, references, features, strict=True):
            name = term_of(tap)
            mask = None if shared is None else mostly(shared, feature.shape[2:]).float()
            # A map of K clusters is as large as the features that it comes from. Made anew in the backward, there is
            # one pair of them at a time, and not one for every sub-head and tap.
            compare = partial(self._compare, tap, geometry=geometry, mask=mask, reduce=reduce)
            results = [
                checkpoint(compare, head, reference, feature, use_reentrant=False, preserve_rng_state=False)
                for head in self.heads[name]  # type: ignore[attr-defined]  # a ModuleList
            ]
            losses, entropies = (torch.stack(values).mean() for values in zip(*results, strict=True))
            terms[name] = losses
            signs[f"{name}_nats"] = -losses.detach()
            signs[f"{name}_entropy"] = entropies / math.log(self.settings.clusters)
        return terms, signs

    def alarms(self, signs: Mapping[str, float]) -> list[str]:
        """A sentence for each tap whose clusters have collapsed."""
        entropies = {tap: signs[f"{term_of(tap)}_entropy"] for tap in self.taps}
        return [
            f"the clusters of tap {tap} have collapsed (marginal entropy {entropy:.2f} of its maximum): the mutual "
            "information there teaches nothing; try a larger mi.weight or fewer mi.clusters"
            for tap, entropy in entropies.items()
            if entropy < 0.1
        ]

    def _compare(
        self,
        tap: int,
        head: nn.Module,
        reference: Tensor,
        feature: Tensor,
        geometry: Geometry,
        mask: Tensor | None,
        reduce: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Loss of one sub-head, and the entropy of its marginal: of regions at the bottleneck, else of voxels."""
        if tap == BOTTLENECK:
            regions = [min(self.settings.grid, size) for size in feature.shape[2:]]
            z1, z2 = (_rows(head(regional_means(x, regions, mask))) for x in (geometry(reference), feature))
            if mask is not None:
                inside = regional_means(mask, regions).flatten() > 0
                z1, z2 = z1[inside], z2[inside]
            loss = global_mi_loss(z1, z2, reduce=reduce)
            mask = None
        else:
            z1, z2 = geometry(head(reference)), head(feature)
            loss = local_mi_loss(z1, z2, self.settings.radius, mask, reduce=reduce)  # type: ignore[arg-type]  # resolved
        return loss, marginal_entropy(z2.detach(), mask)


def term_of(tap: int) -> str:
    """Name of a tap's term."""
    return "mi_bottleneck" if tap == BOTTLENECK else f"mi_stage{tap}"


def _rows(z: Tensor) -> Tensor:
    """[B, K, *S] as [voxels, K]."""
    return z.movedim(1, -1).flatten(0, -2)

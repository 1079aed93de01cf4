"""Hard pseudo-labels of one network as targets of another: cross-entropy and Dice where the first is confident."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from acvl_utils.morphology.morphology_helper import remove_all_but_largest_component
from pydantic import Field
from torch import Tensor

from nnunetv2_semisup.configuration.settings import Section, Share, Weight
from nnunetv2_semisup.data.mixing import Mix
from nnunetv2_semisup.losses.cross_entropy import cross_entropy
from nnunetv2_semisup.losses.dice import soft_dice_loss
from nnunetv2_semisup.losses.masking import masked_mean
from nnunetv2_semisup.regularizers.base import Facts

TERMS = ("pseudo_cross_entropy", "pseudo_dice")


class PseudoLabelSettings(Section):
    """What is learnt from pseudo-labels."""

    cross_entropy: Weight = Field(description="Weight of the cross-entropy, averaged over all voxels.")
    dice: Weight = Field(description="Weight of the Dice loss on the confident voxels.")
    threshold: Share = Field(description="Probability from which a pseudo-label counts.")
    components: Literal["all", "largest"] = Field(
        description='Connected components that are kept of each class (region) in a patch: "all", or the "largest" '
        "alone, where the structures are known to be in one piece (BCP)."
    )

    @property
    def weights(self) -> dict[str, float]:
        """By term."""
        return dict(zip(TERMS, (self.cross_entropy, self.dice), strict=True))


@dataclass(frozen=True)
class PseudoLabels:
    """Decisions and where they count.

    Attributes:
        target: 0 and 1, [B, C, *spatial], float32.
        confident: bool, [B, 1, *spatial] of classes or [B, C, *spatial] of regions.
    """

    target: Tensor
    confident: Tensor

    @classmethod
    def of(cls, facts: Facts, logits: Tensor, settings: PseudoLabelSettings) -> PseudoLabels:
        """Those of logits [B, C, *spatial], without gradient. What is no largest component becomes background."""
        logits = logits.detach()
        answer = facts.answer(logits)
        if settings.components == "largest":
            answer = largest_components(answer, facts.has_regions)
        return cls(answer, facts.confidence(facts.probabilities(logits)) >= settings.threshold)

    def mixed(self, mix: Mix, truth: Tensor) -> PseudoLabels:
        """Mixed with each other and with the truth [L, C, *spatial] of labelled patches, which counts everywhere."""
        certain = torch.ones_like(self.confident[:1]).expand(len(truth), *self.confident.shape[1:])
        return PseudoLabels(mix(self.target, truth), mix(self.confident, certain))

    def share(self, valid: Tensor | None) -> Tensor:
        """Share of valid voxels that are confident."""
        return masked_mean(self.confident.float(), valid)


def largest_components(answer: Tensor, has_regions: bool) -> Tensor:
    """A decision [B, C, *spatial] of 0 and 1 with the largest connected component of every class or region alone.

    Voxels are connected through faces, edges and corners, within a sample. Of classes the first is background, which
    takes the voxels of the other components.
    """
    first = 0 if has_regions else 1
    maps = answer[:, first:].bool().cpu().numpy()
    pieces = np.array([[remove_all_but_largest_component(channel) for channel in sample] for sample in maps])
    kept = torch.from_numpy(pieces).to(answer)
    return kept if has_regions else torch.cat([1 - kept.sum(dim=1, keepdim=True), kept], dim=1)


def pseudo_label_terms(
    facts: Facts,
    logits: Tensor,
    labels: PseudoLabels,
    valid: Tensor | None,
    reduce: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Unweighted terms of logits [B, C, *spatial] against pseudo-labels, by the names in TERMS."""
    confident = labels.confident if valid is None else labels.confident & valid
    p, target = facts.probabilities(logits), labels.target
    if not facts.has_regions:
        p, target = p[:, 1:], target[:, 1:]
    values = (
        cross_entropy(logits, labels.target, valid, labels.confident.float(), facts.has_regions),
        soft_dice_loss(p, target, confident, reduce),
    )
    return dict(zip(TERMS, values, strict=True))

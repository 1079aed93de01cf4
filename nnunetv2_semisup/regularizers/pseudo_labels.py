"""Hard pseudo-labels of one network as targets of another: cross-entropy and Dice where the first is confident."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from nnunetv2_semisup.configuration.settings import Auto, Section, Share, Weight
from nnunetv2_semisup.data.mixing import Mix
from nnunetv2_semisup.data.pieces import largest_components
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.losses.cross_entropy import cross_entropy
from nnunetv2_semisup.losses.dice import soft_dice_loss
from nnunetv2_semisup.losses.masking import masked_mean
from nnunetv2_semisup.regularizers.base import Facts

Structure = Annotated[int, Field(ge=1)]
TERMS = ("pseudo_cross_entropy", "pseudo_dice")


class PseudoLabelSettings(Section):
    """What is learnt from pseudo-labels."""

    cross_entropy: Weight = Field(description="Weight of the cross-entropy, averaged over all voxels.")
    dice: Weight = Field(description="Weight of the Dice loss on the confident voxels.")
    threshold: Share = Field(description="Probability from which a pseudo-label counts.")
    one_piece: list[Structure] | Auto = Field(
        description="Structures of whose pseudo-label in a patch only the largest connected component is kept (BCP): "
        'numbers of labels, of regions their place in the dataset, from 1. "auto": those that come in one piece in '
        "patches of the labelled cases. []: none."
    )

    def check(self, n_structures: int) -> None:
        """Raise SemiSupervisedError for a structure that the dataset does not have."""
        if self.one_piece != "auto" and max(self.one_piece, default=1) > n_structures:
            raise SemiSupervisedError(
                f"pseudo_label.one_piece = {self.one_piece} is not allowed for this dataset; its structures are 1 to "
                f"{n_structures}"
            )

    def resolved(self, facts: Facts) -> Self:
        """With the structures that "auto" stands for; those are looked for only if pseudo-labels have a weight."""
        if self.one_piece != "auto":
            return self
        found = facts.one_piece() if any(self.weights.values()) else ()
        return self.model_copy(update={"one_piece": list(found)})

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
    def of(cls, facts: Facts, logits: Tensor, settings: PseudoLabelSettings, valid: Tensor | None) -> PseudoLabels:
        """Those of logits [B, C, *spatial], without gradient, for resolved settings.

        A piece outside `valid`, bool [B, 1, *spatial], is none: what is answered on padding shall not outgrow an organ.
        """
        logits = logits.detach()
        answer = facts.answer(logits)
        if settings.one_piece:
            if valid is not None:
                answer = answer * valid
            answer = in_one_piece(answer, [int(structure) for structure in settings.one_piece], facts.has_regions)
        return cls(answer, facts.confidence(facts.probabilities(logits)) >= settings.threshold)

    def mixed(self, mix: Mix, truth: Tensor) -> PseudoLabels:
        """Mixed with each other and with the truth [L, C, *spatial] of labelled patches, which counts everywhere."""
        certain = torch.ones_like(self.confident[:1]).expand(len(truth), *self.confident.shape[1:])
        return PseudoLabels(mix(self.target, truth), mix(self.confident, certain))

    def share(self, valid: Tensor | None) -> Tensor:
        """Share of valid voxels that are confident."""
        return masked_mean(self.confident.float(), valid)


def in_one_piece(answer: Tensor, structures: Sequence[int], has_regions: bool) -> Tensor:
    """A decision [B, C, *spatial] of 0 and 1 with only the largest component of these structures in each sample.

    Of classes, channel 0 is background and takes the voxels of the other components; it stands before structure 1.
    """
    result = answer.clone()
    if has_regions:  # may lie in each other
        channels = [structure - 1 for structure in structures]
        regions = answer[:, channels]
        result[:, channels] = regions * _largest_components(regions.flatten(0, 1)).view_as(regions)
        return result
    classes = answer.argmax(dim=1)
    named = torch.isin(classes, torch.tensor(structures, device=answer.device))
    removed = named & ~_largest_components(classes * named)
    result[:, 1:] *= ~removed[:, None]
    result[:, 0] += removed
    return result


def _largest_components(labels: Tensor) -> Tensor:
    """As `largest_components`, of each of the maps [N, *spatial]."""
    maps = labels.to(torch.int16).cpu().numpy()
    return torch.from_numpy(np.stack([largest_components(sample) for sample in maps])).to(labels.device)


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

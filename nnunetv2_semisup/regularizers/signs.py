"""Signs of life that several methods share, and what they say when something is wrong."""

from __future__ import annotations

from torch import Tensor

from nnunetv2_semisup.losses.masking import masked, masked_mean
from nnunetv2_semisup.regularizers.base import Facts

AGREEMENT = ("foreground", "agreement")
"""Signs of a network that is compared with another: share of foreground, and overlap of the two foregrounds."""

MOST_FOREGROUND = 0.95
"""Share of predicted foreground above which a training counts as collapsed: images have some background."""


def foreground_share(facts: Facts, logits: Tensor, valid: Tensor | None) -> Tensor:
    """Share of the valid voxels in which logits [B, C, *spatial] predict anything but background."""
    return masked_mean(facts.foreground(logits).float(), valid)


def overlap(first: Tensor, second: Tensor, valid: Tensor | None) -> Tensor:
    """Dice overlap of two bool masks [B, 1, *spatial] over the batch; 0 if both are empty."""
    ours, theirs = (masked(mask.float(), valid) for mask in (first, second))
    return 2 * (ours * theirs).sum() / (ours.sum() + theirs.sum()).clamp_min(1)


def agreement(facts: Facts, logits: Tensor, other: Tensor, valid: Tensor | None) -> dict[str, Tensor]:
    """The signs named in AGREEMENT: what these logits predict, and how far `other`, of the same patches, agrees."""
    return mask_agreement(facts.foreground(logits.detach()), facts.foreground(other.detach()), valid)


def mask_agreement(ours: Tensor, theirs: Tensor, valid: Tensor | None) -> dict[str, Tensor]:
    """The same signs of two bool foregrounds [B, 1, *spatial], of which the first is the network's."""
    return dict(zip(AGREEMENT, (masked_mean(ours.float(), valid), overlap(ours, theirs, valid)), strict=True))


def mean_confidence(facts: Facts, logits: Tensor, valid: Tensor | None) -> Tensor:
    """Mean probability of the decision over the valid voxels (and regions)."""
    return masked_mean(facts.confidence(facts.probabilities(logits)), valid)


def foreground_alarm(share: float, advice: str) -> list[str]:
    """One sentence where a network predicts no foreground at all or almost nothing else on the unlabelled patches."""
    if share == 0:
        seen = "no foreground at all"
    elif share > MOST_FOREGROUND:
        seen = f"foreground in {share:.0%} of the voxels"
    else:
        return []
    return [
        f"the network predicts {seen} on the unlabelled patches; unless the images are like that, it has collapsed: "
        f"{advice}"
    ]


def confident_alarm(share: float) -> list[str]:
    """One sentence where no pseudo-label is sure enough to count."""
    if share > 0:
        return []
    return ["no pseudo-label is confident, so nothing is learnt from them: lower pseudo_label.threshold"]

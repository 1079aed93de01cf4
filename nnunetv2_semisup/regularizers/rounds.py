"""Rounds of stored pseudo-labels: when the unlabelled cases are predicted anew, and what the network does then."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nnunetv2_semisup.configuration.settings import Count, Section


class RoundSettings(Section):
    """Rounds of pseudo-labels, of equal length, from the end of schedule.warmup to the end of the training."""

    count: Count = Field(description="How many times the unlabelled cases are predicted.")
    network: Literal["continue", "restart"] = Field(
        description='"continue": the network goes on. "restart": every round trains new weights, with nnU-Net\'s whole '
        "learning-rate schedule."
    )
    filter: Literal["none", "agreement"] = Field(
        description='"none": pseudo-labels are nnU-Net\'s predictions. "agreement": predictions of image and mirror '
        "image, where both say the same."
    )


def round_starts(num_epochs: int, warmup_epochs: int, count: int) -> tuple[int, ...]:
    """Epochs at which a round begins; fewer than `count` where the training is too short for all.

    Args:
        num_epochs: length of the training.
        warmup_epochs: epochs before the first round.
        count: of rounds.

    >>> round_starts(100, 40, 3)
    (40, 60, 80)
    >>> round_starts(3, 1, 4)
    (1, 2)
    """
    length = num_epochs - warmup_epochs
    starts = {warmup_epochs + length * index // count for index in range(count)}
    return tuple(sorted(start for start in starts if start < num_epochs))

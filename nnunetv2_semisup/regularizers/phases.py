"""Phases of a training: shares of it, in whole epochs."""

from __future__ import annotations


def phase_ends(num_epochs: int, warmup: float, ramp: float) -> tuple[int, int]:
    """Epochs at which the supervised warm-up ends and at which the weights are full.

    Fractions are rounded so that every phase with a share above 0 has at least one epoch and at least one epoch at
    full weight is left, in that order of importance: a training of 3 epochs warms up in epoch 0, ramps in epoch 1 and
    is full in epoch 2.

    Args:
        num_epochs: length of the training.
        warmup: share of it, in [0, 1].
        ramp: share of it, in [0, 1].
    """
    spare = num_epochs - 1
    warmup_epochs = min(max(round(warmup * num_epochs), 1), max(spare - 1, min(spare, 1))) if warmup > 0 else 0
    ramp_epochs = min(max(round(ramp * num_epochs), 1), max(spare - warmup_epochs, 0)) if ramp > 0 else 0
    return warmup_epochs, warmup_epochs + ramp_epochs


def switch_epoch(num_epochs: int, warmup: float, switch: float) -> int:
    """Epoch at which a second kind of unlabelled term takes over from a first one.

    Rounded so that both have an epoch after the warm-up; where only one is left, the second has it.

    Args:
        num_epochs: length of the training.
        warmup: share of it without unlabelled terms, in [0, 1].
        switch: share of it after which the second begins, in [0, 1].

    >>> [switch_epoch(epochs, warmup=0.1, switch=0.33) for epochs in (1000, 3, 2)]
    [330, 2, 1]
    """
    start, _ = phase_ends(num_epochs, warmup, 0.0)
    return min(max(round(switch * num_epochs), start + 1), max(num_epochs - 1, start))

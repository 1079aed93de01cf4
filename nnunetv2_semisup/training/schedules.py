"""Schedules over epochs: ramp of the weights, learning-rate warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from nnunetv2_semisup.regularizers.phases import phase_ends
from nnunetv2_semisup.regularizers.ramp import gaussian_ramp


def ramp_factor(epoch: int, num_epochs: int, warmup: float, ramp: float) -> float:
    """Factor in [0, 1] on the weights of the unlabelled terms in this epoch.

    0 in the warm-up, then the Gaussian ramp exp(-5 (1 - t)^2) of Laine & Aila 2017, with t in (0, 1) at the middle
    of each epoch of the ramp, then 1.

    >>> [round(ramp_factor(epoch, 3, warmup=0.1, ramp=0.2), 3) for epoch in range(3)]
    [0.0, 0.287, 1.0]
    """
    start, full = phase_ends(num_epochs, warmup, ramp)
    if epoch < start:
        return 0.0
    if epoch >= full:
        return 1.0
    t = (epoch + 0.5 - start) / (full - start)
    return gaussian_ramp(t)


def warmup_cosine(epoch: int, num_epochs: int, warmup: float) -> float:
    """Factor in (0, 1] on the learning rate: linear over this share of the epochs, then half a cosine towards 0.

    >>> [round(warmup_cosine(epoch, 4, warmup=0.25), 2) for epoch in range(4)]
    [0.5, 1.0, 0.75, 0.25]
    """
    growing, _ = phase_ends(num_epochs, warmup, 0.0)
    if epoch < growing:
        return lr_warmup_factor(epoch, growing)
    return (1 + math.cos(math.pi * (epoch - growing) / (num_epochs - growing))) / 2


def lr_warmup_factor(epoch: int, warmup_epochs: int) -> float:
    """Factor on nnU-Net's learning rate: linear from 1 / (warmup_epochs + 1) to 1 at epoch `warmup_epochs`."""
    return min((epoch + 1) / (warmup_epochs + 1), 1.0)


class WarmupCosine:
    """`warmup_cosine` as nnU-Net steps a schedule: by the number of the epoch, also after a resume."""

    def __init__(self, num_epochs: int, warmup: float) -> None:
        """Of no optimiser yet."""
        self._num_epochs = num_epochs
        self._warmup = warmup
        self._optimizers: list[tuple[Optimizer, float]] = []

    def add(self, optimizer: Optimizer, initial_lr: float) -> None:
        """Set the learning rates of this optimiser too, at most `initial_lr`."""
        self._optimizers.append((optimizer, initial_lr))

    def step(self, epoch: int) -> None:
        """Set the learning rates of this epoch."""
        for optimizer, initial_lr in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = initial_lr * warmup_cosine(epoch, self._num_epochs, self._warmup)


class LearningRateWarmup:
    """nnU-Net's learning-rate schedule with a linear warm-up before it."""

    def __init__(
        self, schedule: Any, optimizer: Optimizer, warmup_epochs: int, begun: Callable[[int], int] | None = None
    ) -> None:
        """Stand before `schedule`, which sets the learning rates of `optimizer`.

        `begun`: from an epoch the one at which its weights were new; None where that is the first of the training.
        """
        self._schedule = schedule
        self._optimizer = optimizer
        self._warmup_epochs = warmup_epochs
        self._begun = begun or (lambda epoch: 0)

    def step(self, epoch: int) -> None:
        """Set the learning rate of this epoch."""
        self._schedule.step(epoch)
        for group in self._optimizer.param_groups:
            group["lr"] *= lr_warmup_factor(epoch - self._begun(epoch), self._warmup_epochs)

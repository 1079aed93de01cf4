"""The teacher: an exponential moving average of the student's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


def make_teacher(student: nn.Module) -> nn.Module:
    """An exact copy of the (unwrapped) student that takes no gradient and is never in training mode."""
    teacher = copy.deepcopy(student)
    teacher.requires_grad_(False)
    return teacher.eval()


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float, step: int) -> None:
    """Move the teacher towards the student: t <- d t + (1 - d) s with d = min(decay, 1 - 1/(step + 1)).

    Tarvainen & Valpola 2017, section 3: the smaller d of the first steps forgets the initial weights. Over
    parameters, each once: a PlainConvUNet has 136 state-dict keys for 48 tensors, so a loop over the state dict would
    apply the decay up to four times. Buffers (batch norm) are copied.

    Args:
        teacher: made by `make_teacher` from this student.
        student: the network after its optimiser step.
        decay: in [0, 1).
        step: optimiser steps done so far, from 1.
    """
    decay = min(decay, 1 - 1 / (step + 1))
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - decay)
    for ours, theirs in zip(teacher.buffers(), student.buffers(), strict=True):
        ours.copy_(theirs)

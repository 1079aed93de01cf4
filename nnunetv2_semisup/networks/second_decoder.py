"""A second decoder on a network's encoder."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_semisup.networks.features import as_resolutions, unwrapped


def on_one_encoder(network: nn.Module, other: nn.Module) -> nn.Module:
    """Let `other`, a network of the same plans, keep its decoder and take the encoder of `network`; returns it.

    nnU-Net's decoder holds a reference to its encoder, under which the encoder's weights stand in the state dict a
    second time. Both references are set, so that there is one encoder, whatever trains it.
    """
    encoder: Any = unwrapped(network).encoder
    other.encoder = encoder
    other.decoder.encoder = encoder  # type: ignore[union-attr]  # nnU-Net's U-Nets have one
    return other


def own_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Parameters of a network's decoder without those of the encoder, each once."""
    shared = {id(parameter) for parameter in network.encoder.parameters()}  # type: ignore[union-attr]
    return [parameter for parameter in network.parameters() if id(parameter) not in shared]


class BothOutputs(NamedTuple):
    """What two decoders say of one batch.

    Attributes:
        student: outputs of the student's decoder, full resolution first, with gradient.
        teacher: the same of the teacher's, with or without gradient.
    """

    student: list[Tensor]
    teacher: list[Tensor]


def forward_both(student: nn.Module, teacher: nn.Module, x: Tensor, teacher_learns: bool) -> BothOutputs:
    """Both decoders on one pass of the encoder that they share.

    Args:
        student: a U-Net of nnU-Net's, not wrapped.
        teacher: from `on_one_encoder` with it.
        x: images [B, C, *spatial].
        teacher_learns: whether the teacher's decoder takes part with gradient.
    """
    skips: list[Tensor] = student.encoder(x)  # type: ignore[operator]
    with torch.set_grad_enabled(teacher_learns and torch.is_grad_enabled()):
        theirs = as_resolutions(teacher.decoder(skips))  # type: ignore[operator]
    return BothOutputs(as_resolutions(student.decoder(skips)), theirs)  # type: ignore[operator]

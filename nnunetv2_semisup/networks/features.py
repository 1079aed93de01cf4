"""One call that returns logits and features of nnU-Net's own networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

SUPPORTED_NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")
"""Names of the network classes that `forward_with_features` knows: nnU-Net's default and its ResEnc presets."""


def unwrapped(network: nn.Module) -> nn.Module:
    """The network itself, without DistributedDataParallel and torch.compile around it."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    if isinstance(network, OptimizedModule):
        network = network._orig_mod
    return network


def as_resolutions(outputs: Any) -> list[Tensor]:
    """Outputs or targets of nnU-Net's, full resolution first: all with deep supervision, else the one."""
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def refuse_unsupported_network(class_name: str) -> None:
    """Raise NotImplementedError for a network class whose features cannot be tapped."""
    if class_name.rsplit(".", 1)[-1] not in SUPPORTED_NETWORKS:
        raise NotImplementedError(
            f"features of the network {class_name} cannot be tapped; plan with one of nnU-Net's planners that make "
            f"{' or '.join(SUPPORTED_NETWORKS)}"
        )


def forward_with_features(network: nn.Module, x: Tensor, taps: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Full-resolution logits and the features of the tapped levels, in one pass.

    A level is a resolution step on the way up: 0 is the bottleneck, 1 the first decoder stage, -1 the last one,
    just before the segmentation layer.

    Args:
        network: a PlainConvUNet or ResidualEncoderUNet, not wrapped.
        x: images [B, C, *spatial].
        taps: levels, negative ones counted from the end.

    Returns:
        Logits [B, classes, *spatial], equal bit for bit to the full-resolution output of `network(x)` whether deep
        supervision is on or off, and one feature map [B, channels, *spatial of the level] per tap.

    Raises:
        NotImplementedError: for any other network.
    """
    decoder, levels = _decoder_and_levels(network, x)
    return decoder.seg_layers[-1](levels[-1]), [levels[tap] for tap in taps]


def forward_in_training(network: nn.Module, x: Tensor) -> tuple[Tensor | list[Tensor], Tensor]:
    """What `network(x)` returns, with deep supervision or without, and the features of the last decoder stage.

    Args:
        network: a PlainConvUNet or ResidualEncoderUNet, not wrapped.
        x: images [B, C, *spatial].

    Raises:
        NotImplementedError: for any other network.
    """
    decoder, levels = _decoder_and_levels(network, x)
    if not decoder.deep_supervision:
        return decoder.seg_layers[-1](levels[-1]), levels[-1]
    outputs = [layer(level) for layer, level in zip(decoder.seg_layers, levels[1:], strict=True)]
    return outputs[::-1], levels[-1]


def _decoder_and_levels(network: nn.Module, x: Tensor) -> tuple[Any, list[Tensor]]:
    """The decoder, and the features of the bottleneck and of every decoder stage."""
    decoder: Any = getattr(network, "decoder", None)
    if not isinstance(network, PlainConvUNet | ResidualEncoderUNet) or not isinstance(decoder, UNetDecoder):
        refuse_unsupported_network(type(network).__name__ + "'s decoder")
    skips: list[Tensor] = network.encoder(x)  # type: ignore[operator]
    levels = [skips[-1]]
    for stage, (upsample, block) in enumerate(zip(decoder.transpconvs, decoder.stages, strict=True)):
        levels.append(block(torch.cat((upsample(levels[-1]), skips[-(stage + 2)]), dim=1)))
    return decoder, levels


@dataclass(frozen=True)
class Levels:
    """Geometry of a network's levels, bottleneck first: what heads and windows are built from."""

    channels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, network: nn.Module) -> Levels:
        """Read from a network with nnU-Net's encoder. Strides are voxels of the patch per voxel of the level."""
        encoder: Any = unwrapped(network).encoder
        strides = []
        total = [1] * len(encoder.strides[0])
        for stride in encoder.strides:
            total = [t * s for t, s in zip(total, stride, strict=True)]
            strides.append(tuple(total))
        return cls(tuple(reversed(list(encoder.output_channels))), tuple(reversed(strides)))

"""What the keys and shapes of a network's weights say of it, in words."""

from __future__ import annotations

import re
from typing import Any

Shapes = dict[str, tuple[int, ...]]
"""The shape of every tensor of a network, by its key."""

CLASS = "network class"
CHANNELS = "number of input channels"


def signature(shapes: Shapes) -> dict[str, Any]:
    """Numbers and lists by what a reader would call them, the most telling first; of other networks the class alone.

    Of nnU-Net's U-Nets two with the same signature differ in nothing but normalisation and biases.
    """
    convolutions = {key: shape for key, shape in shapes.items() if key.endswith(".conv.weight") and ".skip." not in key}
    encoder = _by_stage(convolutions, "encoder")
    if not encoder:
        return {CLASS: "none of nnU-Net's U-Nets"}
    first = convolutions.get("encoder.stem.convs.0.conv.weight", encoder[0][0])
    upsampling = [shape for key, shape in shapes.items() if re.match(r"decoder\.transpconvs\.\d+\.weight$", key)]
    return {
        CLASS: "ResidualEncoderUNet" if any(".blocks." in key for key in convolutions) else "PlainConvUNet",
        "dimensions": len(first) - 2,
        CHANNELS: first[1],
        "number of stages": len(encoder),
        "features per stage": [stage[0][0] for stage in encoder],
        "kernels": ["x".join(map(str, stage[0][2:])) for stage in encoder],
        # A transposed convolution of nnU-Net's has the kernel of its stride; the decoder's first is the coarsest.
        "strides": ["x".join(map(str, shape[2:])) for shape in reversed(upsampling)],
        "convolutions per encoder stage": [len(stage) for stage in encoder],
        "convolutions per decoder stage": [len(stage) for stage in _by_stage(convolutions, "decoder")],
    }


def in_words(value: Any) -> str:
    """A value of a signature; of a list in which all are equal the first."""
    if not isinstance(value, list):
        return str(value)
    return " ".join(map(str, value if len(set(value)) != 1 else value[:1]))


def _by_stage(convolutions: Shapes, part: str) -> list[list[tuple[int, ...]]]:
    stages: dict[int, list[tuple[int, ...]]] = {}
    for key, shape in convolutions.items():
        if match := re.match(rf"{part}\.stages\.(\d+)\.", key):
            stages.setdefault(int(match[1]), []).append(shape)
    return [stages[stage] for stage in sorted(stages)]

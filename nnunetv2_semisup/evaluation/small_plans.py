"""A network small enough for a demo on two cores, written as nnU-Net's own plans."""

from typing import Any

FEATURES = (12, 24, 48)
"""Features per stage of the small network; nnU-Net's own plan starts at 32 and goes to 320."""
_LARGEST_PATCH = {2: 96, 3: 32}
_PER_STAGE = ("kernel_sizes", "strides", "n_conv_per_stage")


def small_plans(plans: dict[str, Any], configuration: str, name: str) -> dict[str, Any]:
    """A copy of nnU-Net's plans, named `name`, whose `configuration` trains a small network on small patches.

    Batch size 2, at most 32 voxels (2D: 96 pixels) along each axis of the patch, the first three stages of nnU-Net's
    network with 12, 24 and 48 features. Spacing, resampling, normalisation and data_identifier stay, so nothing is
    preprocessed again. The plans given are not changed.
    """
    settings = dict(plans["configurations"][configuration])
    architecture = dict(settings["architecture"])
    kwargs = dict(architecture["arch_kwargs"])
    stages = min(len(FEATURES), kwargs["n_stages"])
    kwargs |= {key: kwargs[key][:stages] for key in _PER_STAGE if key in kwargs}
    if "n_blocks_per_stage" in kwargs:
        kwargs["n_blocks_per_stage"] = kwargs["n_blocks_per_stage"][:stages]
    kwargs["n_conv_per_stage_decoder"] = kwargs["n_conv_per_stage_decoder"][: stages - 1]
    kwargs |= {"n_stages": stages, "features_per_stage": list(FEATURES[:stages])}
    architecture["arch_kwargs"] = kwargs

    settings |= {"architecture": architecture, "batch_size": 2}
    settings["patch_size"] = _small_patch(settings["patch_size"], kwargs["strides"])
    return plans | {"plans_name": name, "configurations": plans["configurations"] | {configuration: settings}}


def _small_patch(patch_size: list[int], strides: list[list[int]]) -> list[int]:
    """nnU-Net's patch, cut to what the small network can take: a multiple of the product of its strides per axis."""
    largest = _LARGEST_PATCH[len(patch_size)]
    small = []
    for axis, size in enumerate(patch_size):
        multiple = 1
        for stride in strides:
            multiple *= stride[axis]
        small.append(max(min(size, largest) // multiple, 1) * multiple)
    return small

"""Model folders with cluster heads, as the trainers leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.workspace import TINY, Workspace

CLUSTERS = {"tap": -1, "count": 3, "sub_heads": 2, "head": "linear"}


def make_model(
    workspace: Workspace,
    *,
    trainer: str = "nnUNetTrainerBIMPretrain",
    configuration: str = "3d_fullres",
    name: str = "clusters",
    checkpoint: str = "checkpoint_final.pth",
    intensity: bool = False,
    **clusters: Any,
) -> Path:
    """The model folder of a training that has not begun: random weights, or those of `read_intensity`."""
    settings = TINY | {"clusters": CLUSTERS | clusters}
    with workspace.active():
        made = workspace.trainer(trainer, settings, plans_name=name, configuration=configuration)
        made.initialize()
        if intensity:
            read_intensity(made.network, made.heads[0].heads)
        folder = Path(made.output_folder_base)
        made.save_checkpoint(str(folder / "fold_0" / checkpoint))
    # What nnU-Net writes when a training begins.
    (folder / "plans.json").write_text(json.dumps(made.plans_manager.plans))
    (folder / "dataset.json").write_text(json.dumps(made.dataset_json))
    return folder


@torch.no_grad()
def read_intensity(network: Any, heads: torch.nn.ModuleList) -> None:
    """Let the last level's first feature grow with the voxel's intensity, and the heads cut it into clusters.

    Everything but the centre of the kernels on the way from the image through the first skip is 0, so that neither
    neighbours nor deeper levels matter; cluster 0 is dark and cluster 1 bright in the first head, the other way round
    in the second.
    """
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.zero_()
    first, last = network.encoder.stages[0], network.decoder.stages[-1]
    blocks = [*first[0].convs, *last.convs]
    for i, block in enumerate(blocks):
        centre = tuple(size // 2 for size in block.conv.weight.shape[2:])
        # A decoder stage sees the upsampled level first, then the skip; the first image channel is the one that counts.
        channel = block.conv.weight.shape[1] // 2 if i == len(first[0].convs) else 0
        block.conv.weight[(0, channel, *centre)] = 1
    for sign, head in zip((1, -1), heads, strict=True):
        head.layers.weight.zero_()
        head.layers.weight[0, 0] = -10 * sign
        head.layers.weight[1, 0] = 10 * sign
        head.layers.bias.copy_(torch.tensor([5.0 * sign, -5.0 * sign, -1000.0]))

"""Heads on tapped features. They live beside the network, never in it: checkpoints keep stock keys."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

HeadKind = Literal["linear", "mlp"]


class ClusterHeads(nn.Module):
    """Several independent classifiers of each voxel into clusters (Peng 2021: local and global projection heads).

    The sub-heads differ by their initial weights alone. "linear" is one 1x1 convolution, "mlp" two with a leaky
    ReLU between them and a width of half the input channels (the released code's 256 to 128).
    """

    def __init__(self, channels: int, clusters: int, sub_heads: int, kind: HeadKind, dim: int) -> None:
        """Build `sub_heads` heads from `channels` to `clusters` for features with `dim` spatial axes (2 or 3)."""
        super().__init__()
        convolution = nn.Conv3d if dim == 3 else nn.Conv2d

        def head() -> nn.Module:
            if kind == "linear":
                return convolution(channels, clusters, 1)
            width = max(channels // 2, 1)
            return nn.Sequential(convolution(channels, width, 1), nn.LeakyReLU(0.01), convolution(width, clusters, 1))

        self.heads = nn.ModuleList(head() for _ in range(sub_heads))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Cluster probabilities [B, K, *spatial] of features [B, C, *spatial], one per sub-head, in float32."""
        with torch.autocast(features.device.type, enabled=False):
            return [head(features.float()).softmax(dim=1) for head in self.heads]

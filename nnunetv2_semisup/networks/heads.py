"""Heads on tapped features. They live beside the network, never in it: checkpoints keep stock keys."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HeadKind = Literal["linear", "mlp"]


class ClusterHead(nn.Module):
    """A classifier of each voxel into clusters (Peng 2021: local and global projection heads).

    "linear" is one 1x1 convolution, "mlp" two with a leaky ReLU between them and a width of half the input channels
    (the released code's 256 to 128).
    """

    def __init__(self, channels: int, clusters: int, kind: HeadKind, dim: int) -> None:
        """Build a head from `channels` to `clusters` for features with `dim` spatial axes (2 or 3)."""
        super().__init__()
        convolution = nn.Conv3d if dim == 3 else nn.Conv2d
        width = max(channels // 2, 1)
        self.layers: nn.Module
        if kind == "linear":
            self.layers = convolution(channels, clusters, 1)
        else:
            layers = convolution(channels, width, 1), nn.LeakyReLU(0.01), convolution(width, clusters, 1)
            self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Cluster probabilities [B, K, *spatial] of features [B, C, *spatial], in float32."""
        return self.logits(features).softmax(dim=1)

    def logits(self, features: Tensor) -> Tensor:
        """The same before the softmax."""
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.layers(features.float())
            return logits


class ProjectionHead(nn.Module):
    """Embeddings of pooled features by two linear layers, for a contrast of regions (Zhao et al. 2022).

    Nothing is normalised: a region may be all that an image has, and instance normalisation of a single element is
    undefined. The last layer has no activation, so that embeddings can point away from each other.
    """

    def __init__(self, channels: int, dimensions: int) -> None:
        """Build a head from `channels` to `dimensions`."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, dimensions), nn.LeakyReLU(0.01), nn.Linear(dimensions, dimensions)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings [B, N, dimensions] of N regions' features [B, C, N], in float32."""
        with torch.autocast(features.device.type, enabled=False):
            embeddings: Tensor = self.layers(features.float().transpose(1, 2))
            return embeddings


class EmbeddingHead(nn.Module):
    """An embedding of each voxel: 1x1 convolution, instance norm, leaky ReLU, then a linear map without bias.

    Chaitanya et al., MedIA 2023, as released, with instance norm in place of batch norm. Since the last map is linear,
    the mean embedding of many voxels is that of their mean: `forward` stops before it, and `embed` is for the few
    vectors that are compared.
    """

    def __init__(self, channels: int, width: int, dim: int) -> None:
        """Build a head from `channels` to embeddings of `width` for features with `dim` spatial axes (2 or 3)."""
        super().__init__()
        convolution, norm = (nn.Conv3d, nn.InstanceNorm3d) if dim == 3 else (nn.Conv2d, nn.InstanceNorm2d)
        self.layers = nn.Sequential(
            convolution(channels, width, 1, bias=False), norm(width, affine=True), nn.LeakyReLU(0.01, inplace=True)
        )
        self.projection = nn.Linear(width, width, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Maps [B, width, *spatial] of features [B, C, *spatial], in the number format of the context."""
        maps: Tensor = self.layers(features)
        return maps

    def embed(self, vectors: Tensor) -> Tensor:
        """Embeddings [..., width] of vectors [..., width] of the maps, or means of them, in float32."""
        with torch.autocast(vectors.device.type, enabled=False):
            return F.linear(vectors.to(self.projection.weight.dtype), self.projection.weight)

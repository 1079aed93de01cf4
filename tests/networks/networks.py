"""nnU-Net's own network classes, small."""

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn


def plain(dim: int = 3, deep_supervision: bool = True, norm: bool = True, seed: int = 0) -> PlainConvUNet:
    torch.manual_seed(seed)
    return PlainConvUNet(
        2, 3, (4, 8, 16), nn.Conv3d if dim == 3 else nn.Conv2d, 3, [[1] * dim, [2] * dim, [1] + [2] * (dim - 1)], 1, 3,
        1, conv_bias=True, norm_op=(nn.InstanceNorm3d if dim == 3 else nn.InstanceNorm2d) if norm else None,
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        deep_supervision=deep_supervision,
    )  # fmt: skip


def residual(dim: int = 3, deep_supervision: bool = True, seed: int = 0) -> ResidualEncoderUNet:
    torch.manual_seed(seed)
    return ResidualEncoderUNet(
        2, 3, (4, 8, 16), nn.Conv3d if dim == 3 else nn.Conv2d, 3, [[1] * dim, [2] * dim, [2] * dim], (1, 2, 1), 3,
        1, conv_bias=True, norm_op=nn.InstanceNorm3d if dim == 3 else nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        deep_supervision=deep_supervision,
    )  # fmt: skip


def images(dim: int = 3, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 2, *[16] * dim, generator=torch.Generator().manual_seed(1))

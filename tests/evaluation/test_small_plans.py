import copy

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunetv2_semisup.evaluation.small_plans import small_plans

pytestmark = pytest.mark.fast


def plans(patch_size, strides, network="PlainConvUNet"):
    """What nnU-Net plans, as far as it concerns the network."""
    dim, stages = len(patch_size), len(strides)
    blocks = {"n_blocks_per_stage": [1, 3, 4, 6, 6, 6]} if "Residual" in network else {"n_conv_per_stage": [2] * stages}
    kwargs = {
        "n_stages": stages,
        "features_per_stage": [32, 64, 128, 256, 320, 320][:stages],
        "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
        "kernel_sizes": [[3 if stride > 1 else 1 for stride in level] for level in [*strides[1:], [2] * dim]],
        "strides": strides,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    } | {key: value[:stages] for key, value in blocks.items()}
    architecture = {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
        "arch_kwargs": kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    settings = {"patch_size": patch_size, "batch_size": 9, "architecture": architecture, "spacing": [1.0] * dim}
    settings |= {"data_identifier": "nnUNetPlans_x"}
    return {"plans_name": "nnUNetPlans", "configurations": {"x": settings, "other": {"patch_size": [7]}}}


ISOTROPIC = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
ANISOTROPIC = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]


@pytest.mark.parametrize(
    ("patch_size", "strides", "expected", "network"),
    [
        ([128, 128, 128], ISOTROPIC, [32, 32, 32], "PlainConvUNet"),
        ([128, 128, 128], ISOTROPIC, [32, 32, 32], "ResidualEncoderUNet"),
        ([14, 320, 256], ANISOTROPIC, [14, 32, 32], "PlainConvUNet"),
        ([15, 24, 30], ANISOTROPIC, [14, 24, 28], "PlainConvUNet"),
        ([8, 8, 8], ISOTROPIC[:2], [8, 8, 8], "PlainConvUNet"),
        ([512, 448], [[1, 1], [2, 2], [2, 2], [2, 2]], [96, 96], "PlainConvUNet"),
    ],
)
def test_nnunet_builds_the_network_and_it_takes_the_patch(patch_size, strides, expected, network):
    small = small_plans(plans(patch_size, strides, network), "x", "Small")
    settings = small["configurations"]["x"]
    assert settings["patch_size"] == expected
    assert settings["batch_size"] == 2
    architecture = settings["architecture"]
    net = get_network_from_plans(
        architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"], 1, 3
    )
    assert net.encoder.output_channels == [12, 24, 48][: len(strides)]
    net.decoder.deep_supervision = False
    with torch.no_grad():
        assert net(torch.zeros(1, 1, *expected)).shape == (1, 3, *expected)


def test_nothing_else_changes():
    given = plans([128, 128, 128], ISOTROPIC)
    before = copy.deepcopy(given)
    small = small_plans(given, "x", "Small")
    assert given == before
    assert small["plans_name"] == "Small"
    assert small["configurations"]["other"] == given["configurations"]["other"]
    for key in ("spacing", "data_identifier"):
        assert small["configurations"]["x"][key] == given["configurations"]["x"][key]

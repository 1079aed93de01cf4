"""Cluster heads give probabilities, in float32, voxel by voxel."""

import pytest
import torch

from nnunetv2_semisup.networks.heads import ClusterHead

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_head_gives_probabilities(dim, kind, dtype):
    output = ClusterHead(6, clusters=5, kind=kind, dim=dim)(torch.randn(2, 6, *[4] * dim).to(dtype))
    assert output.shape == (2, 5, *[4] * dim)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.sum(dim=1), torch.ones(2, *[4] * dim))


def test_a_head_sees_each_voxel_by_itself():
    head = ClusterHead(3, clusters=4, kind="mlp", dim=3)
    x = torch.randn(1, 3, 4, 4, 4)
    changed = x.clone()
    changed[..., 0, 0, 0] += 1
    difference = (head(x) - head(changed)).abs().sum(dim=1)[0]
    assert difference[0, 0, 0] > 0
    assert difference.flatten()[1:].max() == 0

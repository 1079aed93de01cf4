"""Cluster heads give probabilities, per sub-head, in float32."""

import pytest
import torch

from nnunetv2_semisup.networks.heads import ClusterHeads

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_heads_give_probabilities(dim, kind, dtype):
    heads = ClusterHeads(6, clusters=5, sub_heads=3, kind=kind, dim=dim)
    outputs = heads(torch.randn(2, 6, *[4] * dim).to(dtype))
    assert len(outputs) == 3
    for output in outputs:
        assert output.shape == (2, 5, *[4] * dim)
        assert output.dtype == torch.float32
        torch.testing.assert_close(output.sum(dim=1), torch.ones(2, *[4] * dim))
    assert not torch.equal(outputs[0], outputs[1])


def test_a_sub_head_sees_only_its_own_voxel():
    heads = ClusterHeads(3, clusters=4, sub_heads=1, kind="mlp", dim=3)
    x = torch.randn(1, 3, 4, 4, 4)
    changed = x.clone()
    changed[..., 0, 0, 0] += 1
    difference = (heads(x)[0] - heads(changed)[0]).abs().sum(dim=1)[0]
    assert difference[0, 0, 0] > 0
    assert difference.flatten()[1:].max() == 0

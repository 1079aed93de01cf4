"""Heads see each voxel, or region, by itself, in float32; embeddings of means are means of embeddings."""

import pytest
import torch

from nnunetv2_semisup.networks.heads import ClusterHead, EmbeddingHead, ProjectionHead

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_projection_sees_each_region_by_itself_and_one_is_enough(dtype):
    head = ProjectionHead(6, dimensions=5)
    features = torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    output = head(features)
    assert output.shape == (2, 7, 5)
    assert output.dtype == torch.float32
    for region in range(7):
        torch.testing.assert_close(head(features[..., region : region + 1])[:, 0], output[:, region])
    assert (output < 0).any(), "embeddings can point away from each other"


@pytest.mark.parametrize("dim", [2, 3])
def test_the_embedding_of_a_mean_is_the_mean_of_embeddings(dim):
    head = EmbeddingHead(6, width=5, dim=dim).double()
    maps = head(torch.randn(2, 6, *[4] * dim, dtype=torch.float64)).movedim(1, -1)
    assert maps.shape == (2, *[4] * dim, 5)
    ours, theirs = head.embed(maps.flatten(1, -2).mean(1)), head.embed(maps).flatten(1, -2).mean(1)
    assert (ours - theirs).abs().max() < 1e-14


def test_embeddings_of_half_precision_maps_are_made_in_float32():
    assert EmbeddingHead(6, width=5, dim=3).embed(torch.randn(7, 5).half()).dtype == torch.float32

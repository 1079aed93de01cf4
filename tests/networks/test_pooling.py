"""Means over regions."""

import pytest
import torch

from nnunetv2_semisup.networks.pooling import mostly, regional_means

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("regions", [(2, 3), (2, 2, 1)])
def test_regions_of_equal_size_are_means_of_blocks(regions):
    features = torch.randn(2, 3, *(4 * n for n in regions), generator=torch.Generator().manual_seed(0))
    blocks = features
    for axis, count in enumerate(regions):
        blocks = torch.stack(blocks.chunk(count, dim=2 + axis), dim=2 + axis).movedim(3 + axis, -1)
    torch.testing.assert_close(regional_means(features, regions), blocks.flatten(2 + len(regions)).mean(-1))


def test_a_region_that_is_partly_valid_takes_the_mean_of_its_valid_voxels():
    features = torch.arange(64.0).reshape(1, 1, 4, 4, 4)
    mask = torch.zeros(1, 1, 4, 4, 4)
    mask[..., 0, 0, 0] = mask[..., 1, 1, 1] = 1
    pooled = regional_means(features, [2] * 3, mask)
    assert pooled[0, 0, 0, 0, 0] == pytest.approx((0 + 21) / 2)
    assert pooled.flatten()[1:].abs().max() == 0


def test_a_mask_fills_regions_from_either_side_alike():
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[:, :, 1:, :] = True
    assert mostly(mask, (2, 2)).all()
    assert torch.equal(mostly(mask.flip(2), (2, 2)), mostly(mask, (2, 2)).flip(2))
    assert mostly(mask, (2, 2), 0.999).flatten().tolist() == [False, False, True, True]
    assert torch.equal(mostly(mask, (8, 8)), mask)

import numpy as np
import pytest

from nnunetv2_semisup.data.sparsify.depth import depth_inside, depths_by_class

pytestmark = pytest.mark.fast


def brute_force(mask, spacing):
    """The nearest voxel outside, by looking at all of them."""
    outside = np.argwhere(~mask) * spacing
    depth = np.zeros(mask.shape)
    for voxel in np.argwhere(mask):
        depth[tuple(voxel)] = np.sqrt(((outside - voxel * spacing) ** 2).sum(1).min())
    return depth


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.7, 1.3)])
def test_the_depth_is_the_distance_in_mm_to_the_nearest_voxel_outside(spacing):
    mask = np.random.default_rng(0).random((4, 7, 6)) < 0.8
    assert np.allclose(depth_inside(mask, spacing), brute_force(mask, spacing), rtol=1e-6)


def test_the_edge_of_the_image_is_not_outside():
    mask = np.ones((1, 5, 5), bool)
    mask[0, 0] = False
    assert (depth_inside(mask, (9.0, 2.0, 1.0))[0, -1] == 8).all()
    assert (depth_inside(np.ones((2, 3), bool), (1.0, 1.0)) == 1).all()


def test_each_class_has_its_depth_the_rarest_first():
    labels = np.random.default_rng(0).choice([-1, 0, 1, 7], (6, 8, 7), p=[0.1, 0.5, 0.3, 0.1]).astype(np.int32)
    labels[:3] = 0
    found = list(depths_by_class(labels, (3.0, 1.0, 1.5)))
    assert [value for value, *_ in found] == [7, 1, 0]
    for value, crop, mask, depth in found:
        whole = np.zeros(labels.shape, np.float32)
        whole[crop] = depth
        assert np.array_equal(mask, labels[crop] == value)
        assert np.allclose(whole, depth_inside(labels == value, (3.0, 1.0, 1.5)))

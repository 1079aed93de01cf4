import numpy as np
import pytest

from nnunetv2_semisup.data.sparsify.depth import depth_inside
from nnunetv2_semisup.data.sparsify.erosion import erosion
from nnunetv2_semisup.data.synthetic import make_patient

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (6.0, 1.2, 1.6)])
def test_the_deepest_voxels_in_mm_are_kept_the_same_share_of_each_class(spacing):
    labels = make_patient((12, 48, 40), seed=0, group="labeled", index=0)[1].astype(np.int32)
    keep = erosion(labels, spacing, labels.size // 5, np.random.default_rng(0))
    assert labels.size // 5 - 5 <= np.count_nonzero(keep) <= labels.size // 5
    for value in np.unique(labels):
        mask = labels == value
        assert np.count_nonzero(keep & mask) == pytest.approx(0.2 * mask.sum(), abs=1)
        depth = depth_inside(mask, spacing)
        assert depth[keep & mask].min() >= depth[mask & ~keep].max() - 1e-3 * min(spacing)


def test_millimetres_decide_and_not_voxels():
    labels = np.zeros((9, 9, 1), np.int32)
    labels[1:8, 1:8] = 1
    keep = erosion(labels, (5.0, 1.0, 1.0), 21, np.random.default_rng(0)) & (labels == 1)
    assert set(np.argwhere(keep)[:, 1]) <= {3, 4, 5}
    assert set(np.argwhere(keep)[:, 0]) <= set(range(1, 8))


def test_rare_classes_keep_a_voxel_and_the_sum_stays_within_the_budget():
    labels = np.zeros((10, 10, 10), np.int32)
    labels[0, 0, :6] = range(1, 7)
    for n_voxels in (7, 8, 20):
        keep = erosion(labels, (1.0, 1.0, 1.0), n_voxels, np.random.default_rng(0))
        assert set(labels[keep]) == set(range(7))
        assert np.count_nonzero(keep) <= n_voxels

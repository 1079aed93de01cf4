import numpy as np
import pytest

from nnunetv2_semisup.data.sparsify.depth import depth_inside
from nnunetv2_semisup.data.sparsify.points import points
from nnunetv2_semisup.data.sparsify.scribbles import WIDTH

pytestmark = pytest.mark.fast


def cube() -> np.ndarray:
    """A cube of class 1 in background."""
    labels = np.zeros((20, 60, 60), np.int32)
    labels[5:15, 20:40, 20:40] = 1
    return labels


@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.4), (7.0, 1.0, 1.0), (2.5, 2.5, 2.5)])
def test_a_point_is_a_ball_in_mm(spacing):
    labels = np.full((14, 60, 60), -1, np.int32)
    labels[1:13, 5:55, 5:55] = 0  # what lies outside keeps balls from being cut by the edge of the image
    offsets = np.stack(np.meshgrid(*(np.arange(-5, 6),) * 3, indexing="ij"), -1).reshape(-1, 3)
    ball = {tuple(offset) for offset in offsets[np.linalg.norm(offsets * spacing, axis=1) <= WIDTH]}
    for seed in range(10):
        places = np.argwhere(points(labels, spacing, len(ball), np.random.default_rng(seed)))
        assert {tuple(offset) for offset in places - np.round(places.mean(0)).astype(int)} == ball


@pytest.mark.parametrize("seed", range(5))
def test_points_keep_off_the_borders_and_come_in_each_class_alike(seed):
    labels, spacing = cube(), (1.0, 1.0, 1.0)
    keep = points(labels, spacing, 720, np.random.default_rng(seed))
    for value in (0, 1):
        assert depth_inside(labels == value, spacing)[keep & (labels == value)].min() >= 1
    assert np.count_nonzero(keep & (labels == 1)) == pytest.approx(360, rel=0.3)
    assert np.count_nonzero(keep) == 720


def test_a_structure_that_is_full_leaves_the_rest_to_the_others():
    labels = cube()
    keep = points(labels, (1.0, 1.0, 1.0), labels.size // 3, np.random.default_rng(0))
    assert np.count_nonzero(keep) == labels.size // 3
    assert np.count_nonzero(keep & (labels == 1)) < np.count_nonzero(labels == 1)
    assert np.count_nonzero(keep & (labels == 0)) > 2 * np.count_nonzero(labels == 1)


def test_balls_shrink_where_there_is_no_room_for_one_a_class():
    labels = cube()
    labels[0, 0, :3] = (2, 3, 4)
    keep = points(labels, (1.0, 1.0, 1.0), 7, np.random.default_rng(0))
    assert set(labels[keep]) == {0, 1, 2, 3, 4}
    assert np.count_nonzero(keep) == 7


def test_nothing_is_annotated_where_the_label_is_unknown():
    labels = cube()
    labels[:, ::2] = -1
    assert (labels[points(labels, (1.0, 1.0, 1.0), 500, np.random.default_rng(0))] >= 0).all()

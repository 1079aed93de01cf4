import numpy as np
import pytest
from skimage.measure import label

from nnunetv2_semisup.data.sparsify.depth import depth_inside
from nnunetv2_semisup.data.sparsify.scribbles import draw_strokes, stroke_width, thick_stroke

pytestmark = pytest.mark.fast


def two_structures(shape=(80, 100), spacing=(1.0, 1.0)) -> np.ndarray:
    """Two discs of class 1 and a bar of class 2, in mm."""
    y, x = np.meshgrid(np.arange(shape[0]) * spacing[0], np.arange(shape[1]) * spacing[1], indexing="ij")
    plane = np.zeros(shape, np.int32)
    plane[(y - 25) ** 2 + (x - 25) ** 2 < 15**2] = 1
    plane[(y - 65) ** 2 + (x - 20) ** 2 < 8**2] = 1
    plane[(np.abs(y - 45) < 6) & (np.abs(x - 70) < 25)] = 2
    return plane


def test_a_stroke_is_as_wide_as_asked_in_mm():
    path = np.array([[10, x] for x in range(5, 15)] + [[10 + y, 15] for y in range(8)])
    inside = np.random.default_rng(0).random((25, 25)) < 0.9
    spacing = np.array([0.5, 1.3])
    found = thick_stroke(path, inside, spacing, 2.8)
    length = np.append(0, np.cumsum(np.linalg.norm(np.diff(path, axis=0) * spacing, axis=1)))
    for voxel in np.ndindex(inside.shape):
        distances = np.linalg.norm((path - voxel) * spacing, axis=1)
        if inside[voxel] and distances.min() <= 1.4:
            nearest = np.isclose(distances, distances.min())
            assert np.isclose(length[nearest] / length[-1], found[voxel], atol=1e-6).any()
        else:
            assert np.isinf(found[voxel])


def test_the_width_is_3_mm_and_less_in_small_images():
    assert stroke_width((512, 512), (0.8, 0.8)) == 3
    assert stroke_width((100, 400), (0.3, 0.3)) == pytest.approx(1.5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.0, 0.7)])
@pytest.mark.parametrize("seed", range(5))
def test_each_piece_has_one_stroke_along_its_middle(seed, spacing):
    plane = two_structures((int(80 / spacing[0]), int(100 / spacing[1])), spacing)
    order = draw_strokes(plane, spacing, np.random.default_rng(seed))
    pieces = label(np.where(plane > 0, plane, 0), connectivity=2)
    assert pieces.max() == 3
    for index in range(1, 4):
        piece = pieces == index
        stroke = piece & np.isfinite(order)
        assert order[stroke].min() == 0
        assert order[stroke].max() == pytest.approx(1)
        assert 0.01 < stroke.sum() / piece.sum() < 0.5
        depth = depth_inside(piece, spacing)
        assert depth[stroke].min() >= 0.4 * depth.max() - 1.5 - 1e-3
        for cut in (0.3, 0.6, 1.0):
            assert label(stroke & (order <= cut), connectivity=2).max() == 1
    bar = np.argwhere((plane == 2) & np.isfinite(order)) * spacing
    assert np.ptp(bar[:, 1]) > 18  # at least from the middle to one end


@pytest.mark.parametrize("seed", range(5))
def test_the_background_has_one_stroke_that_leaves_the_structures_alone(seed):
    plane = two_structures()
    order = draw_strokes(plane, (1.0, 1.0), np.random.default_rng(seed))
    stroke = np.isfinite(order) & (plane == 0)
    assert stroke.any()
    assert depth_inside(plane == 0, (1.0, 1.0))[stroke].min() > 1
    assert np.count_nonzero(stroke) < 80 * 6


def test_strokes_in_the_background_come_to_small_structures_too():
    plane = two_structures()
    pieces = label(plane > 0, connectivity=2)
    smallest = pieces == 1 + np.bincount(pieces.ravel())[1:].argmin()
    from_it = depth_inside(~smallest, (1.0, 1.0))
    strokes = (draw_strokes(plane, (1.0, 1.0), np.random.default_rng(seed)) for seed in range(60))
    assert any(from_it[np.isfinite(order) & (plane == 0)].max() < 8 for order in strokes)


def test_strokes_of_other_random_numbers_are_others():
    orders = [draw_strokes(two_structures(), (1.0, 1.0), np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert np.array_equal(orders[0], orders[1])
    for value in range(3):
        mask = two_structures() == value
        assert not np.array_equal(orders[0][mask], orders[2][mask])


@pytest.mark.parametrize("structure", ["none", "everything", "a voxel", "noise", "a line at the edge"])
def test_any_plane_gets_a_stroke_of_each_class(structure):
    plane = np.zeros((12, 9), np.int32)
    if structure == "everything":
        plane[:] = 1
    elif structure == "a voxel":
        plane[0, 0] = 1
    elif structure == "noise":
        plane = np.random.default_rng(0).integers(0, 3, (12, 9), np.int32)
    elif structure == "a line at the edge":
        plane[-1] = 3
    for seed in range(20):
        order = draw_strokes(plane, (1.0, 1.0), np.random.default_rng(seed))
        assert set(plane[np.isfinite(order)]) == set(plane.ravel())
        assert not np.isnan(order).any()


def test_nothing_is_drawn_where_the_label_is_unknown():
    plane = two_structures()
    plane[:, ::2] = -1
    for seed in range(5):
        assert (plane[np.isfinite(draw_strokes(plane, (1.0, 1.0), np.random.default_rng(seed)))] >= 0).all()

import numpy as np
import pytest

from nnunetv2_semisup.data.sparsify.slice_choice import choose_slices, slice_axis

pytestmark = pytest.mark.fast


def counts(n_slices: int, *ranges: tuple[int, int], background: bool = True) -> np.ndarray:
    """[slices, classes]: 10 voxels of class i where ranges[i] says so, and of the background everywhere."""
    voxels = np.zeros((n_slices, 1 + len(ranges)), np.int64)
    voxels[:, 0] = 10 * background
    for column, (start, stop) in enumerate(ranges, start=1):
        voxels[start:stop, column] = 10
    return voxels


@pytest.mark.parametrize(
    ("shape", "spacing", "axis"),
    [
        ((10, 20, 30), (1.0, 1.0, 1.0), 0),
        ((10, 20, 30), (1.0, 1.003, 1.0), 0),
        ((10, 20, 30), (0.7, 5.0, 0.7), 1),
        ((10, 20, 30), (0.7, 0.7, 2.0), 2),
        ((1, 20, 30), (999.0, 1.0, 1.0), 0),
        ((20, 30, 1), (3.0, 1.0, 1.0), 2),
    ],
)
def test_slices_lie_across_the_coarsest_axis(shape, spacing, axis):
    assert slice_axis(shape, spacing) == axis


@pytest.mark.parametrize("number", range(1, 31))
def test_the_slices_are_as_many_as_asked_for_and_evenly_spread(number):
    for offset in np.linspace(0, 0.999, 7):
        chosen = choose_slices(counts(30, (0, 30)), (0, 1), number, offset)
        assert len(set(chosen)) == number
        assert np.ptp(np.diff(chosen)) <= 1 if number > 2 else True
        assert (chosen == np.sort(chosen)).all()


def test_every_fourth_slice_is_without_structure_where_there_are_such():
    voxels = counts(40, (10, 30))
    for number in (1, 2, 3, 4, 8, 12):
        chosen = choose_slices(voxels, (0, 1), number, 0.5)
        inside = (chosen >= 10) & (chosen < 30)
        assert np.count_nonzero(~inside) == number // 4
    assert np.count_nonzero(choose_slices(voxels, (0, 1), 35, 0.5) < 10) > 5  # all 20 with structure, 15 without


def test_slices_in_which_nothing_can_be_annotated_are_never_chosen():
    voxels = counts(10, (4, 6), background=False)
    assert choose_slices(voxels, (0, 1), 10, 0.3).tolist() == [4, 5]


@pytest.mark.parametrize("offset", [0.0, 0.4, 0.99])
def test_as_many_slices_as_classes_hold_every_class(offset):
    voxels = counts(50, (0, 50), (3, 4), (47, 49), (20, 30))
    assert voxels[choose_slices(voxels, (0, 1, 2, 3, 4), 5, offset)].any(0).all()


def test_the_rarest_class_comes_first():
    voxels = counts(50, (0, 25), (49, 50), background=False)
    for offset in (0.0, 0.5, 0.9):
        assert 49 in choose_slices(voxels, (1, 2, 3), 2, offset)

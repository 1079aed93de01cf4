"""Structures in one piece, told from label maps."""

import numpy as np
import pytest
from scipy import ndimage

from nnunetv2_semisup.data.pieces import FEWEST_CASES, largest_components, structures_in_one_piece

pytestmark = pytest.mark.fast

CLASSES = [(1,), (2,)]


def case(pieces_of_two: int = 2) -> np.ndarray:
    """Label 1: a block; label 2: so many voxels apart; -1: outside the nonzero region, as nnU-Net stores it."""
    labels = np.zeros((12, 12, 12), np.int16)
    labels[3:9, 3:9, 3:9] = 1
    for piece in range(pieces_of_two):
        labels[11, 3 * piece, 11] = 2
    labels[0] = -1
    return labels


def test_a_block_is_one_piece_and_scattered_voxels_are_not():
    assert structures_in_one_piece([case()] * 3, CLASSES, (12, 12, 12)) == (1,)
    assert structures_in_one_piece([case(1)] * 3, CLASSES, (12, 12, 12)) == (1, 2)


def test_a_region_is_judged_as_a_whole():
    touching = case(0)
    touching[6:9, 3:9, 3:9] = 2
    assert structures_in_one_piece([touching] * 3, [(1, 2), (2,)], (12, 12, 12)) == (1, 2)
    assert structures_in_one_piece([case(4)] * 3, [(1, 2), (1,)], (12, 12, 12)) == (2,)


def test_few_cases_and_absent_structures_say_nothing():
    assert structures_in_one_piece([case()] * (FEWEST_CASES - 1), CLASSES, (12, 12, 12)) == ()
    assert structures_in_one_piece([case(0)] * 3, CLASSES, (12, 12, 12)) == (1,)
    assert structures_in_one_piece([case(1), case(0), case(0)], CLASSES, (12, 12, 12)) == (1,)
    assert structures_in_one_piece([], CLASSES, (12, 12, 12)) == ()


def test_what_is_one_piece_in_the_body_may_be_several_in_a_slice_or_a_patch():
    """A horseshoe: two arms that meet outside of most patches."""
    labels = np.zeros((16, 16, 16), np.int16)
    labels[:14, 4:6, 6] = labels[:14, 10:12, 6] = 1
    labels[14:, 4:12, 6] = 1
    assert structures_in_one_piece([labels] * 3, [(1,)], (16, 16, 16)) == (1,)
    assert structures_in_one_piece([labels] * 3, [(1,)], (16, 16)) == ()
    assert structures_in_one_piece([labels] * 3, [(1,)], (4, 16, 16)) == ()


def test_a_patch_may_be_larger_than_the_image_and_calls_repeat():
    maps = [case()] * 3
    assert structures_in_one_piece(maps, CLASSES, (20, 8, 30)) == structures_in_one_piece(maps, CLASSES, (20, 8, 30))


@pytest.mark.parametrize("shape", [(9, 10, 11), (20, 21)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_largest_components_of_all_labels_at_once_equal_scipys_one_by_one(shape, dtype):
    labels = np.random.default_rng(0).choice([0, 1, 2, 7], p=[0.6, 0.2, 0.12, 0.08], size=shape).astype(dtype)
    expected = np.zeros(shape, bool)
    for label in (1, 2, 7):
        components, count = ndimage.label(labels == label, np.ones((3,) * len(shape)))
        assert count > 1
        expected |= components == 1 + np.bincount(components[components > 0])[1:].argmax()
    assert np.array_equal(largest_components(labels), expected)


def test_the_first_of_equal_components_stays_and_nothing_of_nothing():
    mask = np.zeros((5, 5, 5), bool)
    assert not largest_components(mask).any()
    mask[0, 0, 0] = mask[4, 4, 4] = True
    assert np.argwhere(largest_components(mask)).tolist() == [[0, 0, 0]]

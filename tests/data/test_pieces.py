"""Structures in one piece, told from label maps."""

import numpy as np
import pytest

from nnunetv2_semisup.data.pieces import FEWEST_CASES, structures_in_one_piece

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

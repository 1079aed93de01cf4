"""What benchmarks/pseudo_label_quality.py says of a case, against counts by hand."""

import numpy as np
import pytest

from tests.benchmarks import script

pytestmark = pytest.mark.fast


def test_dice_is_of_the_voxels_with_a_pseudo_label_and_of_the_classes_of_the_truth():
    truth = np.array([[1, 1, 1, 0, 0], [0, 0, 2, 2, 0]])
    labels = np.array([[1, 1, 0, -1, 1], [1, 0, -1, 2, 0]])
    # Class 1: 2 of 3 found, 2 too many, one of them a piece of its own. Class 2: the one voxel with a label is found.
    stored, largest, known = script("pseudo_label_quality").case_quality(labels, truth)
    assert stored == pytest.approx((4 / 7 + 1) / 2)
    assert largest == pytest.approx((4 / 6 + 1) / 2)
    assert known == 8 / 10


def test_a_case_that_is_missed_altogether_has_none():
    assert script("pseudo_label_quality").case_quality(np.zeros((2, 2)), np.eye(2)) == (0.0, 0.0, 1.0)

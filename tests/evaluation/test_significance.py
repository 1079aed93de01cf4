"""Wilcoxon's test and Holm's correction, against values known from their definitions."""

import numpy as np
import pytest

from nnunetv2_semisup.evaluation.significance import holm, wilcoxon_p

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("n_cases", [4, 8, 12])
def test_all_on_one_side_is_one_of_the_two_extreme_sign_patterns(n_cases: int):
    differences = np.arange(1, n_cases + 1) / 100
    assert wilcoxon_p(differences) == pytest.approx(2 / 2**n_cases)
    assert wilcoxon_p(-differences) == wilcoxon_p(differences)


def test_the_size_of_the_largest_difference_does_not_matter():
    differences = np.array([0.01, 0.02, -0.005, 0.03, 0.04, 0.35])
    larger = differences.copy()
    larger[-1] = 35.0
    assert wilcoxon_p(larger) == wilcoxon_p(differences)


def test_no_difference_at_all():
    assert wilcoxon_p(np.zeros(5)) == 1


def test_holm_multiplies_the_smallest_by_all_and_never_falls_or_passes_one():
    p = np.array([[0.01, 0.5], [0.04, 0.6], [0.03, 0.02]])
    np.testing.assert_allclose(holm(p), [[0.03, 1.0], [0.06, 1.0], [0.06, 0.06]])


def test_holm_of_one_row_changes_nothing():
    assert holm(np.array([0.2])) == pytest.approx([0.2])

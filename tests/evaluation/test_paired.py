import numpy as np
import pytest

from nnunetv2_semisup.evaluation.paired import paired_difference

pytestmark = pytest.mark.fast


def test_constant_difference_has_an_interval_of_one_point():
    baseline = np.array([0.2, 0.5, 0.9])
    difference = paired_difference(baseline, baseline + 0.1)
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    assert (difference.n_better, difference.n_cases) == (3, 3)


def test_interval_of_two_cases_is_students():
    """Of two cases a bootstrap knows nothing: differences 0 and 1 have the interval 0.5 +- 12.7 * 0.5."""
    difference = paired_difference(np.zeros(2), np.array([0.0, 1.0]))
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.5, -5.853, 6.853), abs=1e-3)
    assert difference.n_better == 1


def test_swapping_the_methods_turns_the_interval_round():
    a, b = np.random.default_rng(0).random((2, 12))
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low), abs=1e-9)


def test_cases_without_a_value_do_not_count():
    difference = paired_difference(np.array([0.1, np.nan, 0.3]), np.array([0.2, 0.9, 0.5]))
    assert difference.n_cases == 2
    assert difference.mean == pytest.approx(0.15)


@pytest.mark.parametrize(("a", "b"), [(np.zeros(2), np.zeros(3)), (np.array([np.nan]), np.zeros(1))])
def test_refuses_what_cannot_be_compared(a, b):
    with pytest.raises(ValueError, match="case"):
        paired_difference(a, b)

"""The bins of benchmarks/calibration.py against closed forms."""

import numpy as np
import pytest

from tests.benchmarks import script

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def calibration():
    """The script."""
    return script("calibration")


def test_probabilities_that_come_true_have_no_error(calibration):
    probability = np.repeat([0.0, 0.25, 0.75, 1.0], 8)
    truth = np.concatenate([np.arange(8) < n for n in (0, 2, 6, 8)])
    assert calibration.bins_of(probability, truth).error == pytest.approx(0, abs=1e-12)


def test_the_error_is_the_distance_from_the_share_of_truth_over_cases_together(calibration):
    sure = calibration.bins_of(np.full(10, 0.9), np.arange(10) < 6)
    assert sure.error == pytest.approx(0.3)
    other = calibration.bins_of(np.full(30, 0.9), np.ones(30, dtype=bool))
    assert (sure + other).error == pytest.approx(abs(0.9 - 36 / 40), abs=1e-6)
    apart = calibration.bins_of(np.full(10, 0.1), np.zeros(10, dtype=bool))
    assert (sure + apart).error == pytest.approx((0.3 + 0.1) / 2)


def test_the_border_is_measured_in_millimetres(calibration):
    truth = np.zeros((1, 9, 30), dtype=bool)
    truth[:, :, :15] = True
    near = calibration.near_border(truth, (1.0, 1.0, 4.0))
    assert np.flatnonzero(near[0, 4]).tolist() == [13, 14, 15, 16]

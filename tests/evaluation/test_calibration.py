"""The bins of benchmarks/calibration.py against closed forms."""

from pathlib import Path

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


def test_overconfidence_counts_what_is_decided_either_way(calibration):
    """Sure of 90 % and right in 60 %; sure of 90 % that it is not, and wrong in 30 %; too careful by 20 %."""
    assert calibration.bins_of(np.full(10, 0.9), np.arange(10) < 6).overconfidence == pytest.approx(0.3)
    assert calibration.bins_of(np.full(10, 0.1), np.arange(10) < 3).overconfidence == pytest.approx(0.2)
    assert calibration.bins_of(np.full(10, 0.7), np.arange(10) < 9).overconfidence == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("dataset", "plans", "expected"),
    [
        ("Dataset804_LAquarter", "nnUNetPlans_small_localcontrast-4_seed2", (804, "localcontrast-4", 2)),
        ("Dataset204_LAquarterSlices", "nnUNetPlans_small_both_seed0", (804, "slices-both", 0)),
        ("Dataset305_HippocampusScribbles", "nnUNetPlans_small_partial_seed1", (805, "scribbles-partial", 1)),
        ("Dataset804_LAquarter", "nnUNetPlans_small_dense_seed0", (804, "labeledonly-16", 0)),
    ],
)
def test_a_run_is_known_by_its_folder(calibration, dataset, plans, expected):
    fold = Path(dataset) / f"nnUNetTrainerMixedKD__{plans}__3d_fullres" / "fold_0"
    assert calibration.run_of(fold) == expected


def test_bins_are_read_as_they_were_written(calibration, tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / calibration.csv_name(804)
    assert calibration.read(file) == {}
    found = {
        (run, 0, 1, region): calibration.bins_of(rng.random(100), rng.random(100) < 0.5)
        for run in ("b", "a")
        for region in calibration.REGIONS
    }
    calibration.write(file, found)
    again = calibration.read(file)
    assert again.keys() == found.keys()
    for key, bins in found.items():
        np.testing.assert_allclose(again[key].probability, bins.probability, atol=0.005)
        np.testing.assert_array_equal(again[key].count, bins.count)
        assert again[key].error == pytest.approx(bins.error, abs=2e-3)

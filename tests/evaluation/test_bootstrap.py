import numpy as np
import pytest
from scipy import stats

from nnunetv2_semisup.evaluation.bootstrap import paired_interval, paired_intervals, share_interval

pytestmark = pytest.mark.fast


@pytest.fixture
def generator():
    return np.random.default_rng(1)


def test_of_one_seed_and_normal_cases_it_is_about_students_and_never_narrower(generator):
    differences = generator.normal(0.02, 0.03, (1, 40))
    interval = paired_interval(differences)
    students = stats.ttest_1samp(differences[0], 0).confidence_interval()
    assert interval.mean == pytest.approx(differences.mean())
    assert interval.low <= students.low + 1e-9
    assert interval.high >= students.high - 1e-9
    assert interval.high - interval.low < 1.15 * (students.high - students.low)


def test_of_seeds_that_differ_much_more_than_cases_it_is_students_over_the_seeds():
    seeds = np.array([0.01, 0.05, 0.03])
    interval = paired_interval(np.repeat(seeds[:, None], 20, axis=1))
    students = stats.ttest_1samp(seeds, 0).confidence_interval()
    assert (interval.low, interval.high) == pytest.approx((students.low, students.high))


def test_both_sources_add_in_quadrature():
    """Half widths of 1.96-like t quantiles of either part, squared and added: cases 0 and 1, seeds 0 and 1."""
    differences = np.add.outer(np.array([0.0, 1.0, 2.0]), np.tile([0.0, 1.0], 10))
    interval = paired_interval(differences)
    seeds = stats.t.ppf(0.975, 2) * 1 / np.sqrt(3)
    cases = stats.t.ppf(0.975, 19) * np.tile([0.0, 1.0], 10).std(ddof=1) / np.sqrt(20)
    # The bootstrap of 20 symmetric cases may be a few percent wider than t.
    assert np.hypot(seeds, cases) <= interval.high - interval.mean <= np.hypot(seeds, 1.1 * cases)


def test_it_reaches_further_to_the_side_of_the_rare_large_differences():
    interval = paired_interval(stats.lognorm(1).ppf((np.arange(30)[None] + 0.5) / 30))
    assert interval.high - interval.mean > 1.2 * (interval.mean - interval.low)


def test_turned_round_it_is_turned_round(generator):
    differences = generator.normal(size=(3, 12))
    there, back = paired_interval(differences), paired_interval(-differences)
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low))


def test_the_order_of_seeds_does_not_matter_and_the_same_call_gives_the_same(generator):
    differences = generator.normal(size=(3, 12))
    assert paired_interval(differences) == pytest.approx(paired_interval(differences[::-1]))
    assert paired_interval(differences) == paired_interval(differences)


def test_several_quantities_at_once_are_those_one_by_one(generator):
    differences = generator.normal(size=(2, 9, 3))
    together = paired_intervals(differences)
    for quantity, interval in enumerate(together):
        assert interval == pytest.approx(paired_interval(differences[:, :, quantity]))


def test_one_case_has_no_interval_and_constant_differences_have_a_point():
    assert np.isnan(paired_interval(np.ones((3, 1)))[1:]).all()
    assert paired_interval(np.full((1, 4), 0.5)) == (0.5, 0.5, 0.5)


class TestShare:
    def test_an_exact_share_has_an_interval_of_one_point(self, generator):
        gap = generator.normal(0.2, 0.03, (3, 20))
        assert share_interval(0.6 * gap, gap) == pytest.approx((0.6, 0.6, 0.6), abs=1e-5)

    def test_of_a_gap_without_variance_it_is_the_interval_of_the_difference_divided_by_it(self, generator):
        part, gap = generator.normal(0.1, 0.02, (3, 16)), np.full((3, 16), 0.2)
        expected = np.array(paired_interval(part)) / 0.2
        assert share_interval(part, gap) == pytest.approx(tuple(expected), abs=1e-4)

    def test_a_gap_that_is_not_clear_of_0_has_no_share(self, generator):
        assert np.isnan(share_interval(np.ones((2, 9)), generator.normal(0, 1, (2, 9)))).all()

    def test_harm_is_a_negative_share(self, generator):
        gap = generator.normal(0.2, 0.01, (1, 30))
        share = share_interval(gap - 0.3 + generator.normal(0, 0.01, (1, 30)), gap)
        assert share.low < share.mean < share.high < 0

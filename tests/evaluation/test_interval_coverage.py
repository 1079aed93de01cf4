"""The simulation of benchmarks/interval_coverage.py, smaller: the interval holds a known difference often enough."""

import pytest

from tests.benchmarks import script

interval_coverage = script("interval_coverage")


@pytest.mark.slow
@pytest.mark.parametrize("cases", [10, 16])
@pytest.mark.parametrize("name", ["absent", "equal", "above"])
def test_three_seeds_cover_the_difference(name, cases):
    """600 repetitions have a standard error of 0.9 %: two of them below 95 % is 93.2 %."""
    variance = interval_coverage.SEED_VARIANCES[name]
    ours, width, plain = interval_coverage.coverage(3, cases, variance, False, 600, seed=1)
    assert ours >= 0.93
    assert plain < ours
    assert 1 <= width < 2.3


@pytest.mark.slow
def test_a_plain_bootstrap_of_three_seeds_would_not():
    _, _, plain = interval_coverage.coverage(3, 16, interval_coverage.SEED_VARIANCES["equal"], False, 300, seed=1)
    assert plain < 0.93


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize(("seeds", "name"), [(1, "absent"), (3, "equal"), (5, "absent")])
def test_the_difference_is_covered(seeds, name, skewed):
    """300 repetitions have a standard error of 1.5 %: two of them below the 93 % of the worst setting is 90 %."""
    variance = interval_coverage.SEED_VARIANCES[name]
    ours, _, plain = interval_coverage.coverage(seeds, 10, variance, skewed, 300, seed=2)
    assert 0.90 <= ours < 1
    assert plain < ours


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_share_of_the_gap_is_covered(seeds, skewed):
    ours, with_share = interval_coverage.share_coverage(seeds, 10, 0.0, skewed, 100, seed=3)
    assert ours >= 0.88
    assert with_share > 0.9

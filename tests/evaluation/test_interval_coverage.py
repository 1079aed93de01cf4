"""The simulation of benchmarks/interval_coverage.py, smaller: the interval holds a known difference often enough."""

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

_SPEC = importlib.util.spec_from_file_location(
    "interval_coverage", Path(__file__).parents[2] / "benchmarks" / "interval_coverage.py"
)
assert _SPEC is not None
interval_coverage = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(interval_coverage)


@pytest.mark.parametrize("cases", [10, 16])
@pytest.mark.parametrize("name", ["absent", "equal", "above"])
def test_three_seeds_cover_the_difference(name, cases):
    """600 repetitions have a standard error of 0.9 %: two of them below 95 % is 93.2 %."""
    variance = interval_coverage.SEED_VARIANCES[name]
    ours, width, plain = interval_coverage.coverage(3, cases, variance, False, 600, seed=1)
    assert ours >= 0.93
    assert plain < ours
    assert 1 <= width < 2.3


def test_a_plain_bootstrap_of_three_seeds_would_not():
    _, _, plain = interval_coverage.coverage(3, 16, interval_coverage.SEED_VARIANCES["equal"], False, 300, seed=1)
    assert plain < 0.93

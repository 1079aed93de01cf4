"""How often the 95 % interval of `compare` holds the true difference, in simulations where it is known.

    python benchmarks/interval_coverage.py -o docs/reference/results/interval_coverage.csv

Differences of seed s and case c are drawn as truth + a_s + b_c + e_sc. The cases b_c have standard deviation 1, the
rest e_sc 0.5, and the seeds a_s bring no variance to the mean, as much as the cases do, or four times as much. Cases
are normal, or skewed (log-normal) as where a method fails now and then. The last column is a plain hierarchical
percentile bootstrap of the same draws.

`--share` does the same for the share of the gap that is closed: the gap to all labels is drawn likewise, with cases of
its own, around a value that is clear of 0. Where an interval of the gap holds 0 there is no share, and none is counted.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from nnunetv2_semisup.evaluation.bootstrap import paired_intervals, share_interval

Array = npt.NDArray[np.float64]

COLUMNS = ("cases drawn from", "seeds", "cases", "seed variance", "coverage", "width / true", "plain bootstrap")
SHARE_COLUMNS = ("cases drawn from", "seeds", "cases", "seed variance", "coverage of the share", "with a share")
TRUTH = 0.3
GAP = 3.0
"""Expected value of the gap: three standard deviations of a case."""
RESIDUAL = 0.5
SEED_VARIANCES = {"absent": 0.0, "equal": 1.0, "above": 4.0}
"""Share of the seeds in the variance of the mean, as a multiple of the cases'."""
DRAWS = 2000
BLOCK = 2000
"""Repetitions at a time, so that memory does not grow with their number."""


def simulated(
    generator: np.random.Generator, seeds: int, cases: int, variance: float, skewed: bool, repetitions: int
) -> Array:
    """Differences [seeds, cases, repetitions] whose expected value is TRUTH."""
    seed_effects = np.sqrt(variance * seeds / cases) * generator.standard_normal((seeds, 1, repetitions))
    case_effects = generator.standard_normal((1, cases, repetitions))
    if skewed:
        case_effects = (np.exp(case_effects) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)
    residual = RESIDUAL * generator.standard_normal((seeds, cases, repetitions))
    return np.asarray(TRUTH + seed_effects + case_effects + residual)


def true_half_width(seeds: int, cases: int, variance: float) -> float:
    """Half the width of an interval that knows all variances."""
    return 1.96 * float(np.sqrt((1 + variance) / cases + RESIDUAL**2 / seeds / cases))


def plain_intervals(differences: Array, generator: np.random.Generator) -> Array:
    """Percentiles of the means over seeds and cases that are drawn with replacement: [2, repetitions]."""
    seeds, cases, repetitions = differences.shape
    rows = generator.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS) / seeds
    columns = generator.multinomial(cases, np.full(cases, 1 / cases), DRAWS) / cases
    weights = (rows[:, :, None] * columns[:, None, :]).reshape(DRAWS, seeds * cases)
    return np.asarray(np.quantile(weights @ differences.reshape(-1, repetitions), [0.025, 0.975], axis=0))


def coverage(
    seeds: int, cases: int, variance: float, skewed: bool, repetitions: int, seed: int = 0
) -> tuple[float, float, float]:
    """Share of repetitions in which our interval holds the truth, its width beside the true one's, the plain share.

    The repetitions share the bootstrap's draws, not their data.
    """
    generator = np.random.default_rng(seed)
    differences = simulated(generator, seeds, cases, variance, skewed, repetitions)
    _, low, high = np.array(paired_intervals(differences, draws=DRAWS)).T
    plain_low, plain_high = plain_intervals(differences, generator)
    width = float(np.mean(high - low)) / 2 / true_half_width(seeds, cases, variance)
    ours, plain = (float(np.mean((a <= TRUTH) & (b >= TRUTH))) for a, b in ((low, high), (plain_low, plain_high)))
    return ours, width, plain


def share_coverage(
    seeds: int, cases: int, variance: float, skewed: bool, repetitions: int, seed: int = 0
) -> tuple[float, float]:
    """Share of the intervals that hold the true share of the gap, and how many repetitions have an interval."""
    generator = np.random.default_rng(seed)
    part, gap = (simulated(generator, seeds, cases, variance, skewed, repetitions) for _ in range(2))
    gap += GAP - TRUTH
    found = [share_interval(part[:, :, i], gap[:, :, i], draws=DRAWS) for i in range(repetitions)]
    intervals = np.array([interval for interval in found if not np.isnan(interval.mean)])
    if not len(intervals):
        return float("nan"), 0.0
    held = (intervals[:, 1] <= TRUTH / GAP) & (intervals[:, 2] >= TRUTH / GAP)
    return float(held.mean()), len(intervals) / repetitions


def settings() -> list[tuple[bool, int, int, str]]:
    """Skewed or not, seeds, cases, and how much variance the seeds bring."""
    return [
        (skewed, seeds, cases, name)
        for skewed in (False, True)
        for seeds in (1, 2, 3, 5)
        for cases in (10, 16, 50)
        for name in SEED_VARIANCES
        if seeds > 1 or name == "absent"  # one seed tells nothing of their variance, and the report says so
    ]


def table(repetitions: int) -> Iterator[tuple[object, ...]]:
    """A row for each setting."""
    for skewed, seeds, cases, name in tqdm(settings(), disable=None):
        sizes = [min(BLOCK, repetitions - start) for start in range(0, repetitions, BLOCK)]
        variance = SEED_VARIANCES[name]
        blocks = [coverage(seeds, cases, variance, skewed, size, seed=number) for number, size in enumerate(sizes)]
        ours, width, plain = np.average(blocks, axis=0, weights=sizes)
        kind = "skewed" if skewed else "normal"
        yield kind, seeds, cases, name, f"{ours:.3f}", f"{width:.2f}", f"{plain:.3f}"


def share_table(repetitions: int) -> Iterator[tuple[object, ...]]:
    """A row for each setting."""
    for skewed, seeds, cases, name in tqdm(settings(), disable=None):
        ours, with_share = share_coverage(seeds, cases, SEED_VARIANCES[name], skewed, repetitions)
        yield "skewed" if skewed else "normal", seeds, cases, name, f"{ours:.3f}", f"{with_share:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=20_000, help="repetitions of each setting, default: %(default)s")
    parser.add_argument("-o", type=Path, metavar="CSV", help="also write the table there")
    parser.add_argument("--share", action="store_true", help="of the share of the gap, about 10 ms a repetition")
    args = parser.parse_args()
    columns, rows = (SHARE_COLUMNS, list(share_table(args.n))) if args.share else (COLUMNS, list(table(args.n)))
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    if args.o:
        with args.o.open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([columns, *rows])


if __name__ == "__main__":
    main()

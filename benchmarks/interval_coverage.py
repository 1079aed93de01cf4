"""How often the 95 % interval of `compare` holds the true difference, in simulations where it is known.

    python benchmarks/interval_coverage.py -o docs/reference/results/interval_coverage.csv

Differences of seed s and case c are drawn as truth + a_s + b_c + e_sc. The cases b_c have standard deviation 1, the
rest e_sc 0.5, and the seeds a_s bring no variance to the mean, as much as the cases do, or four times as much. Cases
are normal, or skewed (log-normal) as where a method fails now and then. The last column is a plain hierarchical
percentile bootstrap of the same draws.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from nnunetv2_semisup.evaluation.bootstrap import paired_intervals

Array = npt.NDArray[np.float64]

COLUMNS = ("cases drawn from", "seeds", "cases", "seed variance", "coverage", "width / true", "plain bootstrap")
TRUTH = 0.3
RESIDUAL = 0.5
SEED_VARIANCES = {"absent": 0.0, "equal": 1.0, "above": 4.0}
"""Share of the seeds in the variance of the mean, as a multiple of the cases'."""
DRAWS = 2000


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


def table(repetitions: int) -> Iterator[tuple[object, ...]]:
    """A row for each setting."""
    settings = [
        (skewed, seeds, cases, name)
        for skewed in (False, True)
        for seeds in (1, 2, 3, 5)
        for cases in (10, 16, 50)
        for name in SEED_VARIANCES
        if seeds > 1 or name == "absent"  # one seed tells nothing of their variance, and the report says so
    ]
    for skewed, seeds, cases, name in tqdm(settings, disable=None):
        ours, width, plain = coverage(seeds, cases, SEED_VARIANCES[name], skewed, repetitions)
        kind = "skewed" if skewed else "normal"
        yield kind, seeds, cases, name, f"{ours:.3f}", f"{width:.2f}", f"{plain:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=4000, help="repetitions of each setting, default: %(default)s")
    parser.add_argument("-o", type=Path, metavar="CSV", help="also write the table there")
    args = parser.parse_args()
    rows = list(table(args.n))
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    if args.o:
        with args.o.open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()

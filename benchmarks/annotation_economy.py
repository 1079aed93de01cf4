"""Dice against how much was annotated, as docs/reference/annotation_economy.svg, from the files of finished runs.

    python benchmarks/annotation_economy.py

Left atrium: 4 dense cases alone; 12 more with scribbles (1 % of their voxels) or slices (10 %); and 16 dense ones. The
amount is counted in whole cases. The runs are those of benchmarks/quality.py and benchmarks/mixed_supervision.py; what
has not been run is left out.
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from mixed_supervision import BUDGETS, DENSE, LABELED, run_name
from results import RESULTS, read
from wanted import BASE

NUMBER = 804
FILE = RESULTS.parent / "annotation_economy.svg"
LINES = {"LabeledOnly, nnU-Net's partial loss": ("partial", "o"), "MixedKD, and 48 cases without labels": ("both", "s")}
"""Legend -> arm with sparse labels, marker."""


def amounts() -> dict[str, float]:
    """Mode of the sparse labels -> annotated voxels, in cases."""
    sparse = LABELED - DENSE
    return {mode: DENSE + sparse * float(budget) for mode, budget in sorted(BUDGETS.items(), key=lambda item: item[1])}


def mean_dice(run: str) -> tuple[float, int] | None:
    """Over cases and seeds, and the number of seeds."""
    seeds = read(RESULTS, NUMBER, run)
    return (float(np.mean([list(cases.values()) for cases in seeds.values()])), len(seeds)) if seeds else None


def _draw(
    axes: Axes, found: dict[float, tuple[float, int] | None], style: str, name: str, color: str | None = None
) -> None:
    """A line through the points that there are, each with its number of seeds."""
    points = {amount: point for amount, point in found.items() if point}
    axes.plot(list(points), [dice for dice, _ in points.values()], style, label=name, color=color)
    for amount, (dice, seeds) in points.items():
        label = f"{seeds} seed{'s' * (seeds > 1)}"
        axes.annotate(label, (amount, dice), (5, -12), textcoords="offset points", fontsize=7)


def main() -> None:
    mpl.rcParams["svg.hashsalt"] = "annotation"
    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    ends = {float(DENSE): mean_dice(BASE), float(LABELED): mean_dice(f"labeledonly-{LABELED}")}
    _draw(axes, ends, "D--", "LabeledOnly, dense labels alone", "0.4")
    for name, (arm, marker) in LINES.items():
        _draw(axes, {amount: mean_dice(run_name(arm, mode)) for mode, amount in amounts().items()}, f"{marker}-", name)
    axes.set(xscale="log", xlabel="annotated voxels, in whole cases", ylabel="Dice of the left atrium")
    axes.set_xticks([4, 5, 8, 16], ["4", "5", "8", "16"])
    axes.minorticks_off()
    axes.margins(0.12, 0.12)
    axes.legend(fontsize=8)
    figure.savefig(FILE, metadata={"Date": None})


if __name__ == "__main__":
    main()

"""How often what a network says is true, as docs/reference/reliability.svg, from the bins of benchmarks/calibration.py.

    python benchmarks/reliability.py

Left atrium, voxels within 10 mm of the true border: the share of the atrium among voxels of about one probability,
against this probability. A network to be believed lies on the diagonal, one too sure of itself is flatter.
The voxels of all seeds count together; runs without bins are left out.
"""

from __future__ import annotations

from functools import reduce
from operator import add

import calibration_bins
import matplotlib as mpl
from matplotlib import pyplot
from mixed_supervision import LABELED, run_name
from quality import RESULTS
from wanted import BASE

NUMBER = 804
FILE = RESULTS.parent / "reliability.svg"
RUNS = {
    BASE: "LabeledOnly, 4 dense cases",
    run_name("partial", "slices"): "partial loss, and 12 with slices",
    run_name("both", "slices"): "MixedKD",
    run_name("paper", "slices"): "MixedKD, the paper's terms",
    run_name("paper-entropy", "slices"): "the paper's entropy alone",
    run_name("paper-kd", "slices"): "the paper's distillation alone",
    f"labeledonly-{LABELED}": "LabeledOnly, 16 dense cases",
}
"""Run -> legend."""


def main() -> None:
    mpl.rcParams["svg.hashsalt"] = "reliability"
    figure, axes = pyplot.subplots(figsize=(5, 4.4), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7", lw=1)
    found = calibration_bins.read(RESULTS / calibration_bins.csv_name(NUMBER))
    for run, name in RUNS.items():
        seeds = [bins for key, bins in found.items() if key[0] == run and key[3] == "border"]
        if seeds:
            bins = reduce(add, seeds)
            known = bins.count > 0
            x, y = (column[known] / bins.count[known] for column in (bins.probability, bins.truth))
            axes.plot(x, y, ".-", lw=1, label=name)
    axes.set(xlabel="probability of the atrium", ylabel="share of the atrium", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend(fontsize=8)
    figure.savefig(FILE, metadata={"Date": None})


if __name__ == "__main__":
    main()

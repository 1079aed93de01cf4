"""The tables of docs/reference/results.md, from the per-case CSV files, and what of them has not been run.

    python benchmarks/results.py                                  renews the page; says what is missing, and how long
    python benchmarks/results.py --data FOLDER --work FOLDER      runs what is missing first, as benchmarks/quality.py

Between `<!-- table: NAME -->` and `<!-- end -->` the page is made here, the rest is written by hand. Which rows there
are says benchmarks/wanted.py.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import calibration_bins
import mixed_supervision
import numpy as np
import numpy.typing as npt
from quality import ARMS, RESULTS, csv_name
from wanted import BASE, DATASETS, FULL, MIXTURES, STARTS, Dataset, Start, missing

from nnunetv2_semisup.evaluation.bootstrap import Interval, paired_interval, share_interval
from nnunetv2_semisup.evaluation.comparison.tables import p_text
from nnunetv2_semisup.evaluation.significance import holm, wilcoxon_p
from nnunetv2_semisup.methods import methods

PAGE = RESULTS.parent / "results.md"
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
DICE = ("seeds", "Dice", "sd", "largest pieces")
Values = npt.NDArray[np.float64]


def read(folder: Path, dataset: int, arm: str, column: str = "dice") -> dict[int, dict[str, float]]:
    """Seed -> case -> mean over the classes of a column, of every run that has a file with it."""
    seeds = {}
    for seed in range(100):
        file = folder / csv_name(dataset, arm, seed)
        if file.exists():
            cases: dict[str, list[float]] = {}
            with file.open(newline="") as stream:
                for row in csv.DictReader(stream):
                    if column in row:
                        cases.setdefault(row["case"], []).append(float(row[column]))
            seeds[seed] = {case: float(np.mean(dice)) for case, dice in cases.items()}
    return seeds


def pairs(folder: Path, dataset: int, *arms: str) -> Values | None:
    """Dice [arms, seeds, cases] on the seeds that all arms have; None where there is none."""
    runs = [read(folder, dataset, arm) for arm in arms]
    seeds = sorted(set.intersection(*(set(run) for run in runs)))
    if not seeds:
        return None
    cases = sorted(runs[0][seeds[0]])
    return np.array([[[run[seed][case] for case in cases] for seed in seeds] for run in runs])


def main_table(folder: Path, data: Dataset) -> str:
    """Every arm beside LabeledOnly with the same labels, and the share of the gap to all labels that it closes."""
    heads = "to LabeledOnly, 4 labels", "cases better", "p", "share of gap"
    lines = [_row("trainer", "labels", *DICE, *heads), _rule(10)]
    p = _corrected(folder, data)
    for arm, wanted in data.main.items():
        difference = better = share = "-"
        if arm != BASE and (found := pairs(folder, data.number, arm, BASE)) is not None:
            gain = found[0] - found[1]
            difference = _interval(paired_interval(gain), "+.4f")
            by_case = gain.mean(axis=0)
            better = f"{(by_case > 0).sum()} of {by_case.size}"
        if arm not in (BASE, FULL) and (found := pairs(folder, data.number, arm, BASE, FULL)) is not None:
            ours, base, full = found
            share = _interval(share_interval(ours - base, full - base), ".2f")
        cells = difference, better, p.get(arm, "-"), share
        lines.append(_row(_name(ARMS[arm][0]), _labels(arm), *_dice(folder, data, arm, wanted), *cells))
    return "\n".join(lines)


def _corrected(folder: Path, data: Dataset) -> dict[str, str]:
    """Wilcoxon's p of every method against LabeledOnly, over the cases, corrected for the number of methods."""
    found = {arm: pairs(folder, data.number, arm, BASE) for arm in data.main if arm not in (BASE, FULL)}
    gains = {arm: (dice[0] - dice[1]).mean(axis=0) for arm, dice in found.items() if dice is not None}
    p = holm(np.array([wilcoxon_p(gain) for gain in gains.values()])) if gains else []
    return {arm: p_text(value) for arm, value in zip(gains, p, strict=True)}


def variants_table(folder: Path, data: Dataset, arms: dict[str, int]) -> str:
    """Every variant of a method beside the method with its defaults, which comes first."""
    lines = [_row("settings", *DICE, "to the defaults"), _rule(6)]
    default = next(iter(arms))
    for arm, wanted in arms.items():
        difference = _difference(folder, data, arm, default)
        settings = ", ".join(f"`{text}`" for text in ARMS[arm][2]) or "defaults"
        lines.append(_row(settings, *_dice(folder, data, arm, wanted), difference))
    return "\n".join(lines)


def pretraining_table(folder: Path, data: Dataset, starts: list[Start]) -> str:
    """Every start, number of labels and length beside training from scratch for as long, and for the longest."""
    longest = max(start.epochs for start in starts)
    heads = "to scratch, as long", f"to scratch, {longest} epochs"
    lines = [_row("start", "then", "labels", "rate", "epochs", *DICE, *heads), _rule(11)]
    for start in starts:
        bases = start.scratch, replace(start.scratch, epochs=longest)
        differences = [_difference(folder, data, start.run, base.run) for base in bases]
        how = _name(start.method), str(start.labels), f"{start.rate:g}", str(start.epochs)
        lines.append(_row(f"`{start.arm}`", *how, *_dice(folder, data, start.run, start.seeds), *differences))
    return "\n".join(lines)


def mixed_table(folder: Path, data: Dataset) -> str:
    """Every arm beside the dense cases alone, beside the stock partial loss, and in the gap to all 16 cases dense."""
    dense, *sparse = MIXTURES
    heads = "to the dense cases alone", "to `partial`", "share of gap"
    lines = [_row("sparse labels", "arm", *DICE, *heads), _rule(9)]
    lines.append(_row("none", "LabeledOnly", *_dice(folder, data, BASE, data.main[BASE]), "-", "-", "-"))
    for row in sparse:
        partial = mixed_supervision.run_name("partial", row.mode)
        share = "-"
        if (found := pairs(folder, data.number, row.run, BASE, dense.run)) is not None:
            ours, base, full = found
            share = _interval(share_interval(ours - base, full - base), ".2f")
        cells = _difference(folder, data, row.run, BASE), _difference(folder, data, row.run, partial), share
        lines.append(_row(row.mode, f"`{row.arm}`", *_dice(folder, data, row.run, row.seeds), *cells))
    gain = _difference(folder, data, dense.run, BASE)
    lines.append(_row("all dense", "LabeledOnly", *_dice(folder, data, dense.run, dense.seeds), gain, "-", "-"))
    return "\n".join(lines)


def calibration_table(folder: Path, data: Dataset) -> str:
    """Every run with a file of its bins: errors of calibration and overconfidence, means over the seeds."""
    found = calibration_bins.read(folder / calibration_bins.csv_name(data.number))
    heads = [f"{name}, {region}" for region in ("all voxels", "border") for name in ("ECE", "overconfidence")]
    lines = [_row("run", "seeds", *heads), _rule(6)]
    for run in [*data.main, *(row.run for row in MIXTURES)]:
        seeds = {key[1] for key in found if key[0] == run}
        if not seeds:
            continue
        cells = []
        for region in calibration_bins.REGIONS:
            bins = [value for key, value in found.items() if key[0] == run and key[3] == region]
            cells += [f"{np.mean([b.error for b in bins]):.4f}", f"{np.mean([b.overconfidence for b in bins]):+.4f}"]
        lines.append(_row(f"`{run}`", str(len(seeds)), *cells))
    return "\n".join(lines)


def files_table(folder: Path, pattern: str) -> str:
    """What another script has written, row by row."""
    lines = []
    for file in sorted(folder.glob(pattern)):
        with file.open(newline="") as stream:
            head, *rows = csv.reader(stream)
        lines += [_row(*row) for row in ([] if lines else [head])] + ([] if lines else [_rule(len(head))])
        lines += [_row(*row) for row in rows]
    return "\n".join(lines)


def _difference(folder: Path, data: Dataset, arm: str, other: str) -> str:
    """Paired, with its interval; "-" of an arm with itself and where there is no pair."""
    found = pairs(folder, data.number, arm, other)
    return "-" if found is None or arm == other else _interval(paired_interval(found[0] - found[1]), "+.4f")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns


def _dice(folder: Path, data: Dataset, arm: str, wanted: int) -> tuple[str, str, str, str]:
    """The cells of DICE; the mean of the largest components alone where all files have it."""
    means, one_piece = (
        [float(np.mean(list(cases.values()))) for cases in read(folder, data.number, arm, column).values() if cases]
        for column in ("dice", "dice_one_piece")
    )
    if not means:
        return f"0 of {wanted}", "not run", "-", "-"
    seeds = str(len(means)) if len(means) >= wanted else f"{len(means)} of {wanted}"
    spread = f"{np.std(means, ddof=1):.4f}" if len(means) > 1 else "-"
    largest = f"{np.mean(one_piece):.4f}" if len(one_piece) == len(means) else "-"
    return seeds, f"{np.mean(means):.4f}", spread, largest


def _name(method: str) -> str:
    """Of a method's trainer, or of the trainers of "FIRST+SECOND", without nnU-Net's prefix."""
    return " + ".join(methods()[name].removeprefix("nnUNetTrainer") for name in method.split("+"))


def _labels(arm: str) -> str:
    return "all" if ARMS[arm][1] is None else "4"


def _interval(interval: Interval, form: str) -> str:
    if np.isnan(interval.mean):
        return "the gap is not clear of 0"
    return f"{interval.mean:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def tables(folder: Path) -> dict[str, str]:
    """All tables of the page, by name."""
    found = {}
    for name, data in DATASETS.items():
        found[name] = main_table(folder, data)
        found |= {f"{name}-{method}": variants_table(folder, data, arms) for method, arms in data.variants.items()}
    for name, starts in STARTS.items():
        found[f"{name}-pretraining"] = pretraining_table(folder, DATASETS[name], starts)
    found["gradients"] = files_table(folder, "gradients_*.csv")
    found["pseudo-label-quality"] = files_table(folder, "pseudo_label_quality.csv")
    found["left-atrium-calibration"] = calibration_table(folder, DATASETS["left-atrium"])
    found["left-atrium-mixed"] = mixed_table(folder, DATASETS["left-atrium"])
    return found


def renewed(page: str, folder: Path = RESULTS) -> str:
    """The page with every table made anew. Raises KeyError for a name that is no table's."""
    found = tables(folder)
    return BLOCK.sub(lambda match: f"{match[1]}\n{found[match[2]]}\n\n{match[3]}", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of raw nnU-Net datasets: run what is missing")
    parser.add_argument("--work", type=Path, help="folder for preprocessed data and results")
    parser.add_argument("-device", default="cpu")
    args = parser.parse_args()
    if (args.data is None) != (args.work is None):
        parser.error("--data and --work go together")
    todo = missing(RESULTS)
    for runs in todo:
        command = [*runs.command, "-device", args.device]
        if args.data is None:
            print(f"not run, about {runs.hours:.1f} h: python {' '.join(command)} --data FOLDER --work FOLDER")
        else:
            folders = ["--data", str(args.data), "--work", str(args.work)]
            subprocess.run([sys.executable, *command, *folders], check=True, cwd=Path(__file__).parent.parent)
    if args.data is None and todo:
        print(
            f"all together about {sum(runs.hours for runs in todo):.0f} h on one core; make results says how to start"
        )
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"renewed {PAGE}")


if __name__ == "__main__":
    main()

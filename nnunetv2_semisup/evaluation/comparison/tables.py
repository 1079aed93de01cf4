"""The tables of a comparison as text: one source for the page, the CSV files and LaTeX."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunetv2_semisup.evaluation.bootstrap import Interval
from nnunetv2_semisup.evaluation.comparison.compare import Comparison
from nnunetv2_semisup.evaluation.comparison.metrics import METRICS
from nnunetv2_semisup.evaluation.comparison.statistics import Result
from nnunetv2_semisup.training.cost import Cost

Line = dict[str, str]

TABLE = (
    "method", "labels", "unlabelled", "seeds", "cases", "Dice", "Dice sd", "IoU", "HD95", "ASSD", "pairs", "difference",
    "low", "high", "p", "p Holm", "gap closed", "gap low", "gap high", "samples", "seconds", "peak MiB", "epochs",
    "different",
)  # fmt: skip
"""Columns of the main table; docs/reference/compare-columns.md says what each is."""
STRUCTURES = (
    "method", "labels", "structure", "metric", "mean", "sd", "difference", "low", "high", "p", "p Holm",
)  # fmt: skip
"""Columns of the table of every structure and metric."""


def main_table(comparison: Comparison) -> list[Line]:
    """A line for each row, every cell as it is shown; empty where there is nothing to say."""
    return [_main_line(result, len(comparison.cases)) for result in comparison.results]


def structure_table(comparison: Comparison) -> list[Line]:
    """A line for each row, structure (the mean over them first) and metric."""
    return [
        _structure_line(result, s, structure, m)
        for result in comparison.results
        for s, structure in enumerate(comparison.structures)
        for m in range(len(METRICS))
    ]


def case_table(comparison: Comparison) -> list[Line]:
    """A line for each row, seed, case and structure, the mean over the structures left out."""
    return [
        {"method": result.row.method, "labels": _labels(result), "seed": seed, "case": case, "structure": structure}
        | {metric: f"{result.values[i, c, s, m]:.6f}" for m, metric in enumerate(METRICS)}
        for result in comparison.results
        for i, seed in enumerate(result.row.seeds)
        for c, case in enumerate(comparison.cases)
        for s, structure in enumerate(comparison.structures)
        if s > 0
    ]


def write_csv(lines: Sequence[Mapping[str, str]], columns: Sequence[str], file: Path) -> None:
    """One CSV file with a heading."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def latex(lines: Sequence[Line]) -> str:
    """The main table for a paper, in the style of the package booktabs."""
    heads = (r"method & labels & seeds & Dice & HD95 [mm] & ASSD [mm] & difference [95\,\%] & $p$ (Holm)"
             r" & gap closed [95\,\%] \\")  # fmt: skip
    body = [" & ".join(map(_escaped, _latex_cells(line))) + r" \\" for line in lines]
    return "\n".join(
        [r"\begin{tabular}{lrrrrrrrr}", r"\toprule", heads, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""]
    )


def _latex_cells(line: Line) -> list[str]:
    dice = f"{line['Dice']} ± {line['Dice sd']}" if line["Dice sd"] else line["Dice"]
    interval = f" [{line['low']}, {line['high']}]" if line["low"] else ""
    difference = f"{line['difference']}{interval}"
    gap = f"{line['gap closed']} [{line['gap low']}, {line['gap high']}]" if line["gap closed"] else ""
    method = line["method"] + (f" (different {line['different']})" if line["different"] else "")
    return [method, line["labels"], line["seeds"], dice, line["HD95"], line["ASSD"], difference, line["p Holm"], gap]


def _escaped(text: str) -> str:
    marks = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    marks |= {mark: f"\\{mark}" for mark in "&%$#_{}"}
    return "".join(marks.get(mark, mark) for mark in text)


def _main_line(result: Result, cases: int) -> Line:
    row, difference, mean = result.row, result.difference, result.mean[0]
    line = dict.fromkeys(TABLE, "")
    line |= {"method": row.method, "labels": _labels(result), "seeds": str(len(row.seeds)), "cases": str(cases)}
    line["unlabelled"] = "-".join(str(count) for count in sorted({*row.unlabeled[:1], *row.unlabeled[-1:]}))
    line |= {metric: _number(mean[m], m) for m, metric in enumerate(METRICS)}
    line |= {"Dice sd": _number(result.deviation[0, 0], 0), "different": " ".join(row.different)}
    if difference is not None:
        interval = difference.intervals[0][0]
        line |= dict(zip(("difference", "low", "high"), (_signed(value, 0) for value in interval), strict=True))
        line |= {"pairs": str(difference.pairs), "p": p_text(difference.p[0, 0])}
        if row.role == "method":
            line["p Holm"] = p_text(difference.p_holm[0, 0])
        if difference.share is not None:
            line |= dict(zip(("gap closed", "gap low", "gap high"), _share(difference.share), strict=True))
    return line | _costs(result)


def _structure_line(result: Result, s: int, structure: str, m: int) -> Line:
    line = dict.fromkeys(STRUCTURES, "")
    line |= {"method": result.row.method, "labels": _labels(result), "structure": structure, "metric": METRICS[m]}
    line |= {"mean": _number(result.mean[s, m], m), "sd": _number(result.deviation[s, m], m)}
    if (difference := result.difference) is not None:
        values = difference.intervals[s][m]
        line |= dict(zip(("difference", "low", "high"), (_signed(value, m) for value in values), strict=True))
        line["p"] = p_text(difference.p[s, m])
        if result.row.role == "method":
            line["p Holm"] = p_text(difference.p_holm[s, m])
    return line


def _labels(result: Result) -> str:
    return "" if result.row.is_external else str(result.row.labels)


def _costs(result: Result) -> Line:
    """Means over the trainings of a row; empty where one of them left no account."""
    trainings = [run.training for run in result.row.runs if run.training is not None]
    costs = [training.cost for training in trainings if training.cost is not None]
    if not costs or len(costs) < len(trainings):
        return {}
    shown: dict[str, Callable[[Cost], float]] = {
        "samples": lambda cost: cost.samples,
        "seconds": lambda cost: cost.seconds,
        "peak MiB": lambda cost: cost.peak_memory_bytes / 2**20,
        "epochs": lambda cost: cost.epochs,
    }
    return {name: f"{np.mean([value(cost) for cost in costs]):.0f}" for name, value in shown.items()}


def _share(share: Interval) -> list[str]:
    return ["" if np.isnan(value) else f"{value:.2f}" for value in share]


def _number(value: float, metric: int) -> str:
    return "" if np.isnan(value) else f"{value:.{_digits(metric)}f}"


def _signed(value: float, metric: int) -> str:
    return "" if np.isnan(value) else f"{value:+.{_digits(metric)}f}"


def _digits(metric: int) -> int:
    """Dice and IoU are shares, the others millimetres."""
    return 4 if metric < 2 else 2


def p_text(value: float) -> str:
    """A p value with two digits; below 0.0001 only that."""
    return f"{value:.2g}" if value >= 1e-4 else "<0.0001"

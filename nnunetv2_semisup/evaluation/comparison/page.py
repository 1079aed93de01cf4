"""The page of a comparison: one HTML file that needs nothing beside it."""

from __future__ import annotations

import re
from html import escape
from typing import Any

import numpy as np
from tqdm import tqdm

from nnunetv2_semisup.evaluation.comparison.compare import Comparison
from nnunetv2_semisup.evaluation.comparison.pictures import Drawer, worst_cases
from nnunetv2_semisup.evaluation.comparison.reading import CURVES
from nnunetv2_semisup.evaluation.comparison.rows import row_settings
from nnunetv2_semisup.evaluation.comparison.statistics import Result
from nnunetv2_semisup.evaluation.comparison.tables import STRUCTURES, Line, main_table, p_text, structure_table
from nnunetv2_semisup.evaluation.demo_report import label_names
from nnunetv2_semisup.visualization.charts import Differences, Series, difference_dots, legend, line_chart, paired_dots
from nnunetv2_semisup.visualization.overlays import PALETTE
from nnunetv2_semisup.visualization.page import (
    SORT_SCRIPT,
    color_key,
    html_page,
    long_table,
    paragraph,
    sortable_table,
    table,
)

COLUMNS = (
    ("method", "method", "Trainer, or folder of segmentations"),
    ("labels", "labels", "Labelled training cases"),
    ("unlabelled", "unlabelled", "Unlabelled cases that a training learned from; smallest and largest number"),
    ("seeds", "seeds", "Trainings with different seeds; their folds are taken together"),
    ("Dice", "Dice", "Mean over structures, cases and seeds"),
    ("Dice sd", "sd", "Standard deviation over the seeds of the mean Dice"),
    ("pairs", "pairs", "Of seeds, behind the difference and its interval"),
    (
        "difference",
        "difference",
        "In Dice, to LabeledOnly with the same labels; of the row with all labels to the fewest",
    ),
    ("low high", "95 % interval", "Of the difference, for other cases and other seeds"),
    ("p", "p", "Wilcoxon's signed-rank test over the cases"),
    ("p Holm", "p (Holm)", "The same, corrected for the number of methods in the table"),
    ("gap closed", "gap closed", "Difference as a share of what all labels bring; empty where that is not clear of 0"),
    ("gap low gap high", "95 % interval", "Of the share"),
    ("IoU", "IoU", "Intersection over union, mean over structures, cases and seeds"),
    ("HD95", "HD95, mm", "95th percentile of the Hausdorff distance"),
    ("ASSD", "ASSD, mm", "Average symmetric surface distance"),
    ("samples", "samples", "Patches through a network in a training, a teacher's too"),
    ("seconds", "seconds", "Wall time of a training's epochs"),
    ("peak MiB", "peak MiB", "Peak memory of a training: of the GPU, or of the process on a CPU"),
    ("epochs", "epochs", "Of a training"),
    ("different", "different", "Keys in which the row is not like LabeledOnly and was let in by --allow-different"),
)
"""Of the main table on the page: key or keys of a line, heading, explanation."""
_LEAST_CASES_FOLDED = 30


def comparison_page(comparison: Comparison) -> str:
    """The whole page. Draws the worst cases, which takes longest."""
    results = comparison.results
    methods = [result for result in results if result.row.role == "method"]
    title = f"{comparison.dataset}: {_number(len(methods), 'method')} beside LabeledOnly"
    body = [
        f"<h1>{escape(title)}</h1>",
        paragraph(
            f"{_number(len(comparison.cases), 'validation case')}. Every run was measured on the same cases with its "
            "last checkpoint, without post-processing. If defaults were chosen on these cases, the numbers say how "
            "methods compare and not how well they do on unseen data.",
            "lead",
        ),
        *(f"<p>{escape(_verdict(result))}</p>" for result in methods),
        *(f"<p><strong>Note.</strong> {escape(warning)}</p>" for warning in comparison.warnings),
        "<h2>Table</h2>",
        _main_table(main_table(comparison)),
        paragraph("Click a heading to sort; hold the pointer over it to read what it means.", "small"),
        *_differences(comparison),
        *_structures(comparison),
        *_pictures(comparison),
        *_curves(results),
        *_settings(results),
        *_refused(comparison),
        *_method(),
    ]
    return html_page(title, body, SORT_SCRIPT)


def _verdict(result: Result) -> str:
    """What one row says: better or worse only where the interval leaves no 0 in it; and in how many cases it is.

    One case may make the interval long, of which the number of cases knows nothing.
    """
    difference = result.difference
    assert difference is not None, "a method without LabeledOnly beside it is refused"
    mean, low, high = difference.intervals[0][0]
    ours, theirs = (mean[0, 0] for mean in difference.means)
    word = "no clear difference from" if not (low > 0 or high < 0) else "better than" if low > 0 else "worse than"
    interval = f"95 % interval {low:+.4f} to {high:+.4f}" if np.isfinite(low) else "without an interval"
    text = (
        f"{result.row.title}: {word} {difference.baseline}. Dice {ours:.4f} against {theirs:.4f}; paired difference "
        f"{mean:+.4f}, {interval} ({_number(difference.pairs, 'pair')} of seeds)."
    )
    gains = difference.cases[:, 0, 0]
    text += (
        f" Of {_number(gains.size, 'case')} {(gains > 0).sum()} are better (p {p_text(difference.p_holm[0, 0])}, "
        "Wilcoxon, corrected for the number of methods)."
    )
    share = difference.share
    if share is not None and np.isfinite(share.mean):
        text += (
            f" That closes {100 * share.mean:.0f} % of the gap to LabeledOnly with all labels "
            f"({100 * share.low:.0f} to {100 * share.high:.0f} %)."
        )
    return text


def _main_table(lines: list[Line]) -> str:
    rows = []
    for line in lines:
        cells: list[tuple[str, float | str]] = []
        for keys, *_ in COLUMNS:
            if " high" in keys:
                low, high = (line[key] for key in re.findall(r"(?:gap )?(?:low|high)", keys))
                cells.append((f"[{low}, {high}]" if low else "", _sort_key(low)))
            else:
                cells.append((line[keys], _sort_key(line[keys])))
        rows.append(cells)
    return sortable_table([(heading, why) for _, heading, why in COLUMNS], rows)


def _sort_key(text: str) -> float | str:
    try:
        return float(text.removeprefix("<"))
    except ValueError:
        return text


def _differences(comparison: Comparison) -> list[str]:
    results = comparison.results
    rows = [
        Differences(
            f"{result.row.title} minus {result.difference.baseline}",
            list(zip(comparison.cases, result.difference.cases[:, 0, 0].tolist(), strict=True)),
            result.difference.intervals[0][0],
            color,
        )
        for color, result in enumerate(results)
        if result.difference is not None
    ]
    dots = paired_dots(
        comparison.cases,
        {result.row.title: result.values[:, :, 0, 0].mean(axis=0).tolist() for result in results},
        label="Dice of every row on every case",
    )
    folded = len(comparison.cases) >= _LEAST_CASES_FOLDED
    return [
        "<h2>Differences in Dice, case by case</h2>",
        paragraph(
            "Each faint dot is a case, mean over the pairs of seeds; below them the mean with its 95 % interval.",
            "small",
        ),
        f"<div class='scroll'>{difference_dots(rows, label='Differences in Dice to LabeledOnly on every case')}</div>",
        f"<details{'' if folded else ' open'}><summary>Dice of every row on every case</summary>",
        legend([result.row.title for result in results]),
        f"<div class='scroll'>{dots}</div></details>",
    ]


def _structures(comparison: Comparison) -> list[str]:
    lines = structure_table(comparison)
    rows = [[line[key] for key in STRUCTURES] for line in lines]
    return [
        "<details><summary>Every structure and metric</summary>",
        sortable_table([(key, "") for key in STRUCTURES], [[(cell, _sort_key(cell)) for cell in row] for row in rows]),
        "</details>",
    ]


def _pictures(comparison: Comparison) -> list[str]:
    drawer = Drawer(comparison)
    names = label_names(comparison.label_names)
    results = comparison.results
    baselines = {result.row.title: result for result in results}
    parts = [
        "<h2>Worst cases</h2>",
        paragraph(
            "Of every row the cases of lowest Dice. Colours are the segmentation, white lines the borders of the truth."
        ),
        color_key(list(names.values()), [PALETTE[(label - 1) % len(PALETTE)] for label in names]),
    ]
    for result in tqdm(results, "Drawing", unit=" rows", disable=None):
        beside = baselines[result.difference.baseline] if result.difference is not None else None
        parts.append(f"<details><summary>{escape(result.row.title)}</summary>")
        for seed, case in worst_cases(result):
            parts.append(f"<h3>{escape(comparison.cases[case])}</h3>")
            parts += drawer.strips(result, seed, case, beside)
        parts.append("</details>")
    return parts


def _curves(results: list[Result]) -> list[str]:
    trained = [(color, result) for color, result in enumerate(results) if not result.row.is_external]
    charts = []
    for name, label in CURVES.items():
        series = []
        for color, result in trained:
            curves = [
                run.training.curves[name] for run in result.row.runs if run.training and name in run.training.curves
            ]
            means = [float(np.mean(values)) for values in zip(*curves, strict=False)]
            series.append(Series(result.row.title, list(enumerate(means)), color))
        charts.append(f"<div><h3>{escape(label)}</h3>{line_chart(series, label=label)}</div>")
    return [
        "<h2>Learning curves</h2>",
        paragraph(
            "Means over the runs of a row. The pseudo Dice is of random patches: it compares, it measures nothing."
        ),
        legend([result.row.title for result in results]),
        f"<div class='grid'>{''.join(charts)}</div>",
    ]


def _settings(results: list[Result]) -> list[str]:
    trained = [result.row for result in results if not result.row.is_external]
    settings: list[dict[str, Any]] = [row_settings(row) for row in trained]
    keys = sorted({key for values in settings for key in values})
    differing = [key for key in keys if len({str(values.get(key, "")) for values in settings}) > 1]
    rows = [[key, *(str(values.get(key, "")) for values in settings)] for key in differing]
    shown = table(["setting", *(row.title for row in trained)], rows) if rows else paragraph("None.")
    return ["<h2>Settings that differ</h2>", paragraph("Seeds and split files left out.", "small"), shown]


def _refused(comparison: Comparison) -> list[str]:
    if not comparison.refused:
        return ["<h2>Refused</h2>", paragraph("No run was refused.")]
    return [
        "<h2>Refused</h2>",
        paragraph("These runs are not in the table, because they are not comparable or not whole."),
        long_table(["run", "reason"], [[line.name, line.reason] for line in comparison.refused]),
    ]


def _method() -> list[str]:
    return [
        "<h2>How it was measured</h2>",
        paragraph(
            "Dice, IoU and surface distances are MONAI's, in millimetres. A structure that is empty in truth and "
            "segmentation counts as right (1, 1, 0 mm, 0 mm); empty in one of them as wrong (0, 0, and the diagonal of "
            "the image as both distances). So every case counts for every method."
        ),
        paragraph(
            "Differences are taken case by case between runs with the same seed; segmentations without a seed, and "
            "LabeledOnly with all labels trained once, are compared with the mean over the other's seeds. The interval "
            "adds two sources of chance: other cases (studentised bootstrap) and other seeds (Student's t with one "
            "degree of freedom less than seeds). In simulations it holds the true difference in about 93 % of "
            "the repetitions or more; with two or three seeds it is rather too wide. The interval of the share of the "
            "gap holds every share that the differences do not rule out."
        ),
    ]


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"

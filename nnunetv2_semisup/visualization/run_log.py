"""semisup_progress.png: the curves of semisup_log.csv."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PLOT_FILE = "semisup_progress.png"
_TITLES = {
    "raw": "unweighted terms",
    "weighted": "weighted terms",
    "grad": "gradient norm of the weighted terms",
    "sign": "signs of life",
}


def plot_run_log(log_file: Path) -> Path:
    """Draw one panel for each kind of column of a semisup_log.csv, beside it; returns the picture's path."""
    with log_file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = [name for name in (rows[0] if rows else {}) if name != "epoch"]
    file = log_file.with_name(PLOT_FILE)
    temporary = file.with_suffix(".tmp.png")
    # nnU-Net makes the fonts of all figures of the process two and a half times as large.
    with style.context("default"):
        _figure(rows, columns).savefig(temporary, dpi=70)
    os.replace(temporary, file)
    return file


def _figure(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> Figure:
    """A panel for each kind, with the columns that have a value."""
    # Figure without pyplot: nothing global is touched in a process where nnU-Net plots as well.
    figure = Figure(figsize=(12, 14), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (kind, title) in zip(figure.subplots(len(_TITLES), sharex=True), _TITLES.items(), strict=True):
        for column in (name for name in columns if name.startswith(kind + "/")):
            points = [(int(row["epoch"]), float(row[column])) for row in rows if row[column]]
            if points:
                axes.plot(*zip(*points, strict=True), label=column.removeprefix(kind + "/"))
        axes.set_title(title)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    axes.set_xlabel("epoch")
    return figure

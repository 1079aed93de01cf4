"""The curves of a training's log."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib as mpl
import pytest
import seaborn

from nnunetv2_semisup.visualization.run_log import plot_run_log

pytestmark = pytest.mark.fast

LOG = "epoch,raw/kd,raw/entropy,sign/foreground\n0,,0.5,0.25\n1,,0.25,\n"


def test_fonts_of_nnunets_own_plots_leave_room_for_ours_and_stay_theirs(tmp_path: Path):
    log = tmp_path / "semisup_log.csv"
    columns = [f"{kind}/term_{number}" for kind in ("raw", "weighted", "grad", "sign") for number in range(9)]
    log.write_text(f"epoch,{','.join(columns)}\n0{',0.5' * len(columns)}\n")
    with mpl.rc_context(), warnings.catch_warnings():
        seaborn.set(font_scale=2.5)
        size = mpl.rcParams["font.size"]
        warnings.simplefilter("error")
        assert plot_run_log(log) == tmp_path / "semisup_progress.png"
        assert mpl.rcParams["font.size"] == size > 20


def test_a_column_without_a_value_has_no_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = tmp_path / "semisup_log.csv"
    log.write_text(LOG)
    drawn: list[str] = []
    plot = mpl.axes.Axes.plot

    def record(axes: mpl.axes.Axes, *points: object, label: str) -> object:
        drawn.append(label)
        return plot(axes, *points, label=label)

    monkeypatch.setattr(mpl.axes.Axes, "plot", record)
    plot_run_log(log)
    assert drawn == ["entropy", "foreground"]

"""What a comparison leaves behind: one folder, whole or not there."""

from __future__ import annotations

from pathlib import Path

from nnunetv2_semisup.data.staging import put_in_place, staging_folder
from nnunetv2_semisup.evaluation.comparison import tables
from nnunetv2_semisup.evaluation.comparison.compare import Comparison
from nnunetv2_semisup.evaluation.comparison.metrics import METRICS
from nnunetv2_semisup.evaluation.comparison.page import comparison_page

PAGE = "index.html"


def write_report(comparison: Comparison, folder: Path) -> Path:
    """Write index.html, table.csv, structures.csv, cases.csv, refused.csv and table.tex; returns the page's path.

    Raises SemiSupervisedError where the disk is full or the folder cannot be written; nothing is left then.
    """
    with staging_folder(folder) as staging:
        lines = tables.main_table(comparison)
        tables.write_csv(lines, tables.TABLE, staging / "table.csv")
        tables.write_csv(tables.structure_table(comparison), tables.STRUCTURES, staging / "structures.csv")
        columns = ("method", "labels", "seed", "case", "structure", *METRICS)
        tables.write_csv(tables.case_table(comparison), columns, staging / "cases.csv")
        refused = [{"run": line.name, "reason": line.reason} for line in comparison.refused]
        tables.write_csv(refused, ("run", "reason"), staging / "refused.csv")
        (staging / "table.tex").write_text(tables.latex(lines), encoding="utf-8")
        (staging / PAGE).write_text(comparison_page(comparison), encoding="utf-8")
        put_in_place(staging, folder)
    return folder / PAGE

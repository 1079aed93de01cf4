"""What a comparison leaves behind: one folder, whole or not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.comparison import tables
from nnunetv2_semisup.evaluation.comparison.compare import Comparison
from nnunetv2_semisup.evaluation.comparison.metrics import METRICS
from nnunetv2_semisup.evaluation.comparison.page import comparison_page

PAGE = "index.html"


def refuse_existing(folder: Path) -> None:
    """Raises SemiSupervisedError where the report's folder exists with something in it, or has no folder to lie in."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise SemiSupervisedError(f"{folder} exists already; remove it or give another name with -o")
    existing = next(parent for parent in folder.absolute().parents if parent.exists())
    if not os.access(existing, os.W_OK):
        raise SemiSupervisedError(f"cannot write to {existing}; give another folder with -o")


def write_report(comparison: Comparison, folder: Path) -> Path:
    """Write index.html, table.csv, structures.csv, cases.csv, refused.csv and table.tex; returns the page's path.

    Raises SemiSupervisedError where the disk is full or the folder cannot be written; nothing is left then.
    """
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        staging.mkdir(parents=True)
        lines = tables.main_table(comparison)
        tables.write_csv(lines, tables.TABLE, staging / "table.csv")
        tables.write_csv(tables.structure_table(comparison), tables.STRUCTURES, staging / "structures.csv")
        columns = ("method", "labels", "seed", "case", "structure", *METRICS)
        tables.write_csv(tables.case_table(comparison), columns, staging / "cases.csv")
        refused = [{"run": line.name, "reason": line.reason} for line in comparison.refused]
        tables.write_csv(refused, ("run", "reason"), staging / "refused.csv")
        (staging / "table.tex").write_text(tables.latex(lines), encoding="utf-8")
        (staging / PAGE).write_text(comparison_page(comparison), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        os.replace(staging, folder)
    except OSError as error:
        raise SemiSupervisedError(f"cannot write {folder} ({error}); make room or give another -o") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder / PAGE

"""The comparison of a benchmark's runs: what `nnUNetv2_semisup compare` makes of its folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from nnunetv2_semisup.evaluation.benchmark.folder import Benchmark
from nnunetv2_semisup.evaluation.comparison.compare import Comparison
from nnunetv2_semisup.evaluation.comparison.compare import compare as compare_runs
from nnunetv2_semisup.evaluation.comparison.report import PAGE, write_report


def compare(benchmark: Benchmark) -> tuple[Comparison, Path]:
    """Compare all runs, failed ones as such, and put the report in place of an earlier one; returns its page too.

    Raises SemiSupervisedError where runs are not comparable, none is finished, or the disk is full.
    """
    comparison = compare_runs([benchmark.folder], [])
    new = benchmark.comparison.with_suffix(".partial")
    shutil.rmtree(new, ignore_errors=True)
    write_report(comparison, new)
    shutil.rmtree(benchmark.comparison, ignore_errors=True)
    os.replace(new, benchmark.comparison)
    return comparison, benchmark.comparison / PAGE

"""The comparison of a benchmark's runs: `nnUNetv2_semisup compare` on its folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from nnunetv2_semisup.evaluation.benchmark.commands import compare_command
from nnunetv2_semisup.evaluation.benchmark.folder import Benchmark
from nnunetv2_semisup.evaluation.benchmark.preparation import environment
from nnunetv2_semisup.evaluation.steps import Step, run_step


def compare(benchmark: Benchmark) -> None:
    """Compare all runs, failed ones included, and put the result in place of an earlier one.

    Raises SemiSupervisedError where runs are not comparable or none is finished.
    """
    new = benchmark.folder / "comparison.partial"
    old = benchmark.folder / "comparison.old"
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    step = Step("compare", compare_command(benchmark, new))
    run_step(step, benchmark.log("compare"), Path.cwd(), environment(), lambda _: None)
    if benchmark.comparison.exists():
        os.replace(benchmark.comparison, old)
    os.replace(new, benchmark.comparison)
    shutil.rmtree(old, ignore_errors=True)

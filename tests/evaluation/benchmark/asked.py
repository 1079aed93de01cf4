"""Requests for benchmarks of the toy dataset, and results that stand for finished runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from nnunetv2_semisup.evaluation.benchmark.folder import Benchmark, fold_folder
from nnunetv2_semisup.evaluation.benchmark.runs import Request, Run
from nnunetv2_semisup.evaluation.benchmark.settings import settings_of
from tests.workspace import DATASET

TINY = (
    "training.num_epochs=3", "training.num_iterations_per_epoch=1", "training.num_val_iterations_per_epoch=1",
    "training.save_every=1",
)  # fmt: skip


def asked(**changes: Any) -> Request:
    """Two labelled cases, two methods, one seed, one fold."""
    request = Request(
        name="b",
        dataset=DATASET,
        configuration="3d_fullres",
        plans="nnUNetPlans",
        methods=("mireg", "entropymin"),
        labeled=(2,),
        first=False,
        folds=(0,),
        seeds=(0,),
        settings=TINY,
    )
    return dataclasses.replace(request, **changes)


def leave_results(benchmark: Benchmark, run: Run, *files: str) -> None:
    """What nnU-Net leaves of a run: the settings in the model's folder, and `files` in the fold's."""
    folder = fold_folder(run)
    (folder / "validation").mkdir(parents=True, exist_ok=True)
    section = {"method": run.method, **settings_of(benchmark.request, run).model_dump()}
    (folder.parent / "plans.json").write_text(json.dumps({"semisup": section}))
    for file in files:
        (folder / file).touch()


FINISHED = ("checkpoint_final.pth", "validation/summary.json", "validation/semisup_validation.json")


def finish(benchmark: Benchmark, run: Run) -> None:
    """A finished run."""
    leave_results(benchmark, run, *FINISHED)


def benchmark_in(folder: Path, **changes: Any) -> Benchmark:
    """A benchmark that is not begun."""
    return Benchmark(folder, asked(**changes))

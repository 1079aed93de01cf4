"""What the trainings of a benchmark stand on: split files, plans, preprocessed unlabelled images."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path

from nnunetv2_semisup.data.folders import load_dataset_json, load_plans, variable_folder, write_whole
from nnunetv2_semisup.data.plans_file import write_plans
from nnunetv2_semisup.data.selection import select_cases
from nnunetv2_semisup.data.splits import make_split, write_split
from nnunetv2_semisup.evaluation.benchmark.commands import preprocess_command
from nnunetv2_semisup.evaluation.benchmark.folder import Benchmark, save_benchmark
from nnunetv2_semisup.evaluation.benchmark.runs import Run
from nnunetv2_semisup.evaluation.benchmark.settings import assignments, regularizers_of, settings_model
from nnunetv2_semisup.evaluation.steps import Step, command_path, run_step

_PREPROCESSED = "preprocessed"
"""A file in the benchmark's folder. Images that come later are left out: all runs must see the same."""


def environment() -> dict[str, str]:
    """Variables of all commands: the caller's, and what stock nnU-Net needs to find our trainers."""
    extension = str(importlib.import_module("nnunetv2_semisup.extension").__path__[0])
    folders = [folder for folder in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if folder]
    if extension not in folders:
        folders.append(extension)
    ours = {
        "nnUNet_extTrainer": os.pathsep.join(folders),
        "PATH": command_path(),
        "PYTHONUNBUFFERED": "1",
        "MPLBACKEND": "agg",
    }
    return {**os.environ, **ours}


def write_files(benchmark: Benchmark) -> None:
    """The benchmark's folder, the split files and the plans. What stands there already stays.

    Raises SemiSupervisedError: a folder that cannot be written; a split file or plans with other content.
    """
    save_benchmark(benchmark)
    request = benchmark.request
    dataset_folder = variable_folder("nnUNet_preprocessed") / request.dataset
    raw = variable_folder("nnUNet_raw") / request.dataset
    dataset_json = load_dataset_json(dataset_folder)
    for run in benchmark.runs:
        if run.split is not None:
            seed = None if request.first else run.seed
            split = make_split(dataset_folder, raw, dataset_json, run.fold, int(run.labeled), seed)
            write_split(dataset_folder, run.split, run.fold, split)
        model = settings_model(run.method)
        write_plans(dataset_folder, run.method, model, request.plans, run.plans, assignments(request, run))


def needs_images(benchmark: Benchmark) -> bool:
    """Whether unlabelled images are still to be preprocessed."""
    uses_them = any(regularizers_of(run.method) for run in benchmark.runs)
    return uses_them and not (benchmark.folder / _PREPROCESSED).exists()


def preprocess_images(benchmark: Benchmark, update: Callable[[int], None]) -> None:
    """Preprocess the unlabelled images, once a benchmark, and check that every run can use them.

    Raises SemiSupervisedError: the command failed; everything that `select_cases` refuses.
    """
    step = Step("preprocess", preprocess_command(benchmark.request))
    run_step(step, benchmark.log("preprocess"), Path.cwd(), environment(), update)
    check_cases(benchmark)
    write_whole("", benchmark.folder / _PREPROCESSED)


def check_cases(benchmark: Benchmark) -> None:
    """Refuse, for every run before the first of them, unlabelled cases that cannot be used."""
    for run in benchmark.runs:
        if regularizers_of(run.method):
            _check(benchmark, run)


def _check(benchmark: Benchmark, run: Run) -> None:
    request = benchmark.request
    dataset_folder = variable_folder("nnUNet_preprocessed") / request.dataset
    plans = load_plans(dataset_folder, request.plans)
    select_cases(dataset_folder, plans, request.configuration, run.fold, run.split, need_unlabeled=True)

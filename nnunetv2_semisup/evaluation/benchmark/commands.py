"""What one would type for each part of a benchmark, by hand and in the same order."""

from __future__ import annotations

import shlex

from nnunetv2_semisup.data.folders import dataset_option
from nnunetv2_semisup.evaluation.benchmark.folder import Benchmark, fold_folder
from nnunetv2_semisup.evaluation.benchmark.runs import Request, Run
from nnunetv2_semisup.training.fold_files import BEST, FINAL, LATEST

Command = tuple[str, ...]


def preprocess_command(request: Request) -> Command:
    """The unlabelled images, and image-only copies of the training cases that serve as unlabelled ones."""
    data = ("-d", dataset_option(request.dataset), "-c", request.configuration, "-p", request.plans)
    return ("nnUNetv2_semisup", "preprocess", *data, "--training")


def split_command(request: Request, run: Run) -> Command | None:
    """The split file of a run; None where every training case is labelled."""
    if run.split is None:
        return None
    choice = ("--first",) if request.first else ("--seed", str(run.seed))
    fold = ("-d", dataset_option(request.dataset), "-f", str(run.fold))
    return ("nnUNetv2_semisup", "split", *fold, "--labeled", str(run.labeled), *choice, "-o", run.split)


def plan_command(request: Request, run: Run, assignments: tuple[str, ...]) -> Command:
    """The plans of a run. `assignments`: all of its settings, KEY=VALUE."""
    options = ("-d", dataset_option(request.dataset), "-m", run.method, "-p", request.plans, "-o", run.plans)
    return ("nnUNetv2_semisup", "plan", *options, "--set", *assignments)


def train_command(request: Request, run: Run, device: str) -> Command:
    """Training and validation with the last weights, or what is left of them.

    A half run goes on with --c; where only the validation is missing, --val does it.
    """
    fold = (dataset_option(request.dataset), request.configuration, str(run.fold))
    command = ("nnUNetv2_train", *fold, "-tr", run.trainer, "-p", run.plans, "-device", device)
    folder = fold_folder(run)
    if (folder / FINAL).is_file():
        return (*command, "--val")
    if any((folder / name).is_file() for name in (LATEST, BEST)):
        return (*command, "--c")
    return command


def compare_command(benchmark: Benchmark) -> Command:
    """The comparison of all runs, which by hand have no benchmark's folder."""
    folds = (str(fold_folder(run)) for run in benchmark.runs)
    return ("nnUNetv2_semisup", "compare", *folds, "-o", str(benchmark.comparison))


def line(command: Command) -> str:
    """As one types it in a shell."""
    return shlex.join(command)

"""What RUN stands for on the command line: a fold, a benchmark, a folder that holds folds, or segmentations."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.benchmark.folder import FILE as BENCHMARK_FILE
from nnunetv2_semisup.evaluation.benchmark.folder import fold_folder, is_finished, read_benchmark
from nnunetv2_semisup.evaluation.comparison.reading import read_fold, read_segmentations
from nnunetv2_semisup.evaluation.comparison.runs import Refused, Run
from nnunetv2_semisup.training.fold_files import FINAL

_FOLD = re.compile(r"fold_(\d+|all)")
_SEED = re.compile(r"seed_(\d+)")


@dataclass
class Found:
    """All runs, and those of a benchmark or a larger folder that cannot be read."""

    runs: list[Run] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


def find_runs(paths: Sequence[Path]) -> Found:
    """Every run below the given paths; a path that was given twice counts once.

    What was named itself must be whole. Of a benchmark or a folder of models, what is unfinished or damaged is refused
    and the others go on.

    Raises:
        SemiSupervisedError: a path that does not exist or holds no run; a named fold that is not finished.
    """
    found = Found()
    seen: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            raise SemiSupervisedError(f"there is no folder {path}; a RUN is a fold's folder, a benchmark's folder, or "
                                      "a folder of segmentations")  # fmt: skip
        if _FOLD.fullmatch(path.resolve().name):
            if path.resolve() not in seen:
                found.runs.append(replace(read_fold(path.resolve()), named=True))
            seen.add(path.resolve())
        elif (path / BENCHMARK_FILE).is_file():
            _add_benchmark(path, found, seen)
        elif folds := list(_folds_below(path.resolve())):
            for fold in folds:
                _add_fold(fold, found, seen)
        else:
            found.runs += _segmentations(path.resolve(), seen)
    return Found(_told_apart(found.runs), found.refused)


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """Runs of one name, e.g. from two folders nnUNet_results, are called by their whole path."""
    count = Counter(run.name for run in runs)
    return [replace(run, name=str(run.predictions)) if count[run.name] > 1 else run for run in runs]


def _add_benchmark(path: Path, found: Found, seen: set[Path]) -> None:
    benchmark = read_benchmark(path)
    for run in benchmark.runs:
        if is_finished(run):
            _add_fold(fold_folder(run).resolve(), found, seen)
        else:
            reason = benchmark.failure(run)
            found.refused.append(Refused(run.name, f"failed: {reason}" if reason else "is not finished"))


def _add_fold(folder: Path, found: Found, seen: set[Path]) -> None:
    if folder in seen:
        return
    seen.add(folder)
    try:
        if not (folder / FINAL).is_file():
            raise SemiSupervisedError("is not finished")
        found.runs.append(read_fold(folder))
    except SemiSupervisedError as error:
        found.refused.append(Refused(f"{folder.parent.name}/{folder.name}", str(error)))


def _folds_below(path: Path) -> Iterator[Path]:
    """Folders fold_F of models TRAINER__PLANS__CONFIGURATION, in order."""
    seen: set[str] = set()
    for parent, folders, _ in os.walk(path, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:  # links may lead in a circle
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        if Path(parent).name.count("__") == 2:
            yield from (Path(parent) / name for name in folders if _FOLD.fullmatch(name))
            folders.clear()


def _segmentations(path: Path, seen: set[Path]) -> list[Run]:
    """One run of the files in a folder, or one for each of its folders seed_N."""
    if path in seen:
        return []
    seen.add(path)
    seeds = {int(match[1]): entry for entry in sorted(path.iterdir()) if (match := _SEED.fullmatch(entry.name))}
    if seeds:
        return [read_segmentations(folder, path.name, seed) for seed, folder in sorted(seeds.items())]
    if not any(entry.is_file() for entry in path.iterdir()):
        raise SemiSupervisedError(
            f"{path} holds neither a finished fold nor segmentations; a RUN is a fold's folder, a benchmark's folder, "
            "or a folder of segmentations"
        )
    return [read_segmentations(path, path.name, None)]

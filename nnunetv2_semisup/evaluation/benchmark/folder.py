"""A benchmark's folder: what was asked for, what has failed, and who trains what at the moment.

    benchmark.json              the request and its runs; `compare` reads it
    failed/RUN.txt              why a run's last attempt failed, one line
    logs/RUN.txt                what the last attempt printed
    running/RUN                 locked while a process trains the run
    slurm_jobs.json             what was submitted last
    comparison/                 what `compare` wrote

What is finished is not noted here: a run is finished where nnU-Net has left a final checkpoint and its validation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from nnunetv2_semisup.data.folders import read_json, variable_folder, write_json, write_whole
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.benchmark.runs import Request, Run, runs_of
from nnunetv2_semisup.training.fold_files import FINAL, VALIDATION_RECORD

FILE = "benchmark.json"
FORMAT = 1
Status = Literal["finished", "failed", "unfinished"]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark and where it keeps its own files."""

    folder: Path
    request: Request

    @property
    def runs(self) -> list[Run]:
        """In the order in which they are trained."""
        return list(runs_of(self.request))

    @property
    def comparison(self) -> Path:
        """Where `compare` writes."""
        return self.folder / "comparison"

    def log(self, name: str) -> Path:
        """What the step or run of this name printed."""
        return self.folder / "logs" / f"{name}.txt"

    def lock(self, run: Run) -> Path:
        """The file that is locked while the run is trained."""
        return self.folder / "running" / run.name

    def note_failure(self, run: Run, reason: str) -> None:
        """Keep why an attempt failed, in one line."""
        write_whole(" ".join(reason.split()) + "\n", self._failure(run))

    def forget_failure(self, run: Run) -> None:
        """Before another attempt."""
        self._failure(run).unlink(missing_ok=True)

    def failure(self, run: Run) -> str | None:
        """Why the run's last attempt failed; None where it did not."""
        file = self._failure(run)
        return file.read_text(encoding="utf-8").strip() if file.is_file() and not is_finished(run) else None

    def status(self, run: Run) -> Status:
        """How far a run is."""
        if is_finished(run):
            return "finished"
        return "failed" if self._failure(run).is_file() else "unfinished"

    def _failure(self, run: Run) -> Path:
        return self.folder / "failed" / f"{run.name}.txt"


def fold_folder(run: Run) -> Path:
    """Where nnU-Net leaves the run's checkpoints and validation."""
    return variable_folder("nnUNet_results") / run.results


def is_finished(run: Run) -> bool:
    """Whether the last checkpoint is there, and its segmentations of the validation cases, evaluated and on record."""
    folder = fold_folder(run)
    return all((folder / name).is_file() for name in (FINAL, "validation/summary.json", VALIDATION_RECORD))


def read_benchmark(folder: Path) -> Benchmark:
    """A benchmark that was begun in `folder`.

    Raises SemiSupervisedError where there is none, or one of another version.
    """
    file = folder / FILE
    if not file.is_file():
        raise SemiSupervisedError(f"{folder} is no folder of a benchmark: it has no {FILE}")
    content = read_json(file)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise SemiSupervisedError(f"{file} was not written by this version; name another folder: -o DIR")
    values = content["request"]
    kept = {field.name: _frozen(values[field.name]) for field in fields(Request)}
    return Benchmark(folder, Request(**kept))


def open_benchmark(folder: Path, make: Callable[[str], Request]) -> Benchmark:
    """The benchmark that is asked for, new or begun in `folder` before. Nothing is written.

    A benchmark may grow: more methods, label counts, folds or seeds. What it has must be asked for again.

    Args:
        folder: of the benchmark.
        make: the request for a benchmark of this name.

    Raises:
        SemiSupervisedError: the folder holds something else, or a benchmark with other data, settings or further runs.
    """
    if not (folder / FILE).is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise SemiSupervisedError(f"{folder} exists and is no folder of a benchmark; name another one: -o DIR")
        return Benchmark(folder, make(folder.resolve().name))
    before = read_benchmark(folder)
    benchmark = Benchmark(folder, make(before.request.name))
    for key in ("dataset", "configuration", "plans", "first", "settings"):
        then, now = getattr(before.request, key), getattr(benchmark.request, key)
        if then != now:
            raise SemiSupervisedError(
                f"{folder} holds a benchmark with {key} = {_words(then)}, and now it is {_words(now)}; "
                "name another folder: -o DIR"
            )
    if dropped := sorted({run.name for run in before.runs} - {run.name for run in benchmark.runs}):
        raise SemiSupervisedError(
            f"{folder} holds a benchmark with {dropped[0]} ({len(dropped)} such runs), which is not asked for now; "
            "ask for it as well, or name another folder: -o DIR"
        )
    return benchmark


def save_benchmark(benchmark: Benchmark) -> None:
    """Make the folder and write what was asked for.

    Raises SemiSupervisedError where the folder cannot be written.
    """
    try:
        for name in ("logs", "failed", "running"):
            (benchmark.folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SemiSupervisedError(
            f"cannot write to {benchmark.folder} ({error.strerror}); name another folder: -o DIR"
        ) from None
    runs = [{"name": run.name, **asdict(run), "results": str(run.results)} for run in benchmark.runs]
    content = {"format": FORMAT, "request": asdict(benchmark.request), "runs": runs}
    if not (benchmark.folder / FILE).is_file() or read_benchmark(benchmark.folder) != benchmark:
        write_json(content, benchmark.folder / FILE)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _words(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)

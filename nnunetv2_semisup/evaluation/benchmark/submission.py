"""A benchmark on a cluster: jobs through submitit, in the order of what depends on what.

One job preprocesses the unlabelled images, an array trains, one job a run, and a last job compares. A training that
runs out of time is queued again by submitit and goes on with --c.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from nnunetv2_semisup.data.folders import read_json, write_json
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.benchmark.comparison import compare
from nnunetv2_semisup.evaluation.benchmark.folder import Benchmark, is_finished, read_benchmark
from nnunetv2_semisup.evaluation.benchmark.preparation import environment, needs_images, preprocess_images, write_files
from nnunetv2_semisup.evaluation.benchmark.report import summary
from nnunetv2_semisup.evaluation.benchmark.training import attempt

_REQUEUES = 20
"""How often a training that runs out of time is queued again."""
_JOBS = "slurm_jobs.json"

Cluster = Literal["slurm", "local"]
"""Where submitit runs jobs; "local": processes of this machine, for tests of what is submitted."""


class TrainingJob:
    """One run, as submitit calls it on a node. It has what submitit needs to queue it again."""

    def __init__(self, folder: Path, name: str, device: str) -> None:
        """The benchmark's folder, the run's name, nnU-Net's name of the device."""
        self.folder, self.name, self.device = folder, name, device

    def __call__(self) -> str:
        """Train, and say how it ended: a failed run is in the benchmark's folder and fails its job as well."""
        benchmark = read_benchmark(self.folder)
        run = next(run for run in benchmark.runs if run.name == self.name)
        reason = attempt(benchmark, run, self.device, environment(), lambda _: None, lambda text: print(text))
        if reason is not None:
            raise SemiSupervisedError(reason)
        return f"{self.name} is finished"

    def checkpoint(self) -> Any:
        """The same again: `attempt` sees what is there and goes on with --c."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def preprocessing_job(folder: Path) -> None:
    """The unlabelled images, on a node."""
    preprocess_images(read_benchmark(folder), lambda _: None)


def comparison_job(folder: Path) -> None:
    """The comparison of what is finished, on a node."""
    benchmark = read_benchmark(folder)
    print(summary(benchmark))
    compare(benchmark)


def slurm_parameters(assignments: Sequence[str]) -> dict[str, Any]:
    """Texts KEY=VALUE, sbatch's long options with - or _, as submitit takes them.

    >>> slurm_parameters(["time=60", "cpus-per-task=8", "reservation=mine"])
    {'slurm_time': 60, 'slurm_cpus_per_task': 8, 'slurm_additional_parameters': {'reservation': 'mine'}}

    Raises SemiSupervisedError where submitit is missing, for a text that is no KEY=VALUE, and without a time.
    """
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise SemiSupervisedError("--slurm needs submitit; type: pip install 'nnunetv2-semisup[slurm]'") from None
    known: dict[str, Any] = {}
    additional: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise SemiSupervisedError(f"--slurm {text}: expected KEY=VALUE, e.g. partition=gpu time=1440")
        name = key.lstrip("-").replace("-", "_")
        number: int | str = int(value) if value.isdecimal() else value
        if name in SlurmExecutor._valid_parameters():
            known[f"slurm_{name}"] = number
        else:
            additional[name] = number
    if not isinstance(known.get("slurm_time"), int):
        raise SemiSupervisedError("--slurm needs the time of a job in minutes, e.g. --slurm time=1440 partition=gpu")
    return known | ({"slurm_additional_parameters": additional} if additional else {})


def check_slurm(benchmark: Benchmark) -> None:
    """Refuse a machine without SLURM, and a benchmark of which jobs are in the queue.

    Raises SemiSupervisedError.
    """
    for command in ("sbatch", "srun", "squeue"):
        if shutil.which(command) is None:
            raise SemiSupervisedError(
                f"--slurm: there is no {command} on this machine; type the command on a machine of the cluster, or "
                "leave --slurm out to train here"
            )
    file = benchmark.folder / _JOBS
    if not file.is_file():
        return
    identifiers = ",".join(read_json(file))
    # squeue fails where it knows none of the jobs any more: then none is in the queue.
    queue = ["squeue", "--noheader", "--format=%A", f"--jobs={identifiers}"]
    shown = subprocess.run(queue, capture_output=True, text=True, check=False).stdout.split()
    if shown:
        jobs = " ".join(sorted(set(shown)))
        raise SemiSupervisedError(
            f"jobs of this benchmark are in the queue or running: {jobs}; wait for them, or type: scancel {jobs}"
        )


def submit(
    benchmark: Benchmark, device: str, parallel: int | None, parameters: Mapping[str, Any], cluster: Cluster = "slurm"
) -> list[str]:
    """Write splits and plans, then submit everything that is not finished.

    Args:
        benchmark: what to do.
        device: as nnU-Net names it.
        parallel: how many trainings may run at the same time; None: as many as the cluster lets.
        parameters: of every job, as `slurm_parameters` makes them.
        cluster: "local" knows no dependencies, so there each stage is waited for.

    Returns:
        The ids of the jobs, an array's once.

    Raises:
        SemiSupervisedError: everything that `write_files` refuses, or sbatch refused.
    """
    write_files(benchmark)
    folder = benchmark.folder.resolve()
    trainings = [TrainingJob(folder, run.name, device) for run in benchmark.runs if not is_finished(run)]
    stages: list[tuple[str, list[Callable[[], Any]], str]] = []
    if needs_images(benchmark):
        stages.append(("preprocess", [_Call(preprocessing_job, folder)], "afterok"))
    if trainings:
        stages.append(("train", list(trainings), "afterany"))
    stages.append(("compare", [_Call(comparison_job, folder)], "afterany"))

    submitted: list[str] = []
    dependency: str | None = None
    for name, calls, next_condition in stages:
        executor = _executor(folder, name, device, parallel, parameters, dependency, cluster)
        jobs = _submit_stage(executor, calls)
        identifier = jobs[0].job_id.split("_")[0]
        submitted.append(identifier)
        write_json(submitted, folder / _JOBS)
        dependency = f"{next_condition}:{identifier}"
        if cluster == "local":
            for job in jobs:
                job.wait()
    return submitted


class _Call:
    """A function of the folder, picklable by name."""

    def __init__(self, function: Callable[[Path], None], folder: Path) -> None:
        self.function, self.folder = function, folder

    def __call__(self) -> None:
        self.function(self.folder)


def _executor(
    folder: Path,
    name: str,
    device: str,
    parallel: int | None,
    parameters: Mapping[str, Any],
    dependency: str | None,
    cluster: Cluster,
) -> Any:
    import submitit

    given: dict[str, Any] = {"slurm_gpus_per_node": 1} if device == "cuda" else {}
    given |= {"slurm_job_name": f"{folder.name}-{name}"}
    given |= {"slurm_array_parallelism": parallel} if parallel is not None else {}
    given |= {"slurm_dependency": dependency} if dependency is not None else {}
    executor = submitit.AutoExecutor(folder / "slurm" / "%j", cluster=cluster, slurm_max_num_timeout=_REQUEUES)
    try:
        executor.update_parameters(timeout_min=parameters["slurm_time"], **given, **parameters)
    except (TypeError, ValueError) as error:
        raise SemiSupervisedError(f"--slurm: {str(error).splitlines()[0]}") from None
    return executor


def _submit_stage(executor: Any, calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """One job a call, several as an array."""
    from submitit.core.utils import FailedJobError

    try:
        with executor.batch():
            jobs = [executor.submit(call) for call in calls]
    except (FailedJobError, OSError) as error:
        said = [line for line in str(error).splitlines() if line.strip()]
        raise SemiSupervisedError(f"sbatch refused the job: {said[-1] if said else error}") from None
    return jobs

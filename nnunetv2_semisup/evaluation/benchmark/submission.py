"""A benchmark on a cluster: jobs through submitit, in the order of what depends on what.

One job preprocesses the unlabelled images, an array trains, one job a run, and a last job compares. What runs out of
time is queued again by submitit and goes on, a training with --c.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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


class _QueuedAgain(ABC):
    """A job that goes on where it was when submitit queues it again, as it does what runs out of time."""

    @abstractmethod
    def __call__(self) -> Any:
        """What is left of it."""

    def checkpoint(self) -> Any:
        """The same again: it sees what is there."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class TrainingJob(_QueuedAgain):
    """One run, as submitit calls it on a node. `attempt` goes on with --c."""

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


class PreprocessingJob(_QueuedAgain):
    """The unlabelled images, on a node. Finished cases are skipped."""

    def __init__(self, folder: Path) -> None:
        """The benchmark's folder."""
        self.folder = folder

    def __call__(self) -> None:
        """Preprocess what is not finished."""
        preprocess_images(read_benchmark(self.folder), lambda _: None)


def comparison_job(folder: Path) -> None:
    """The comparison of what is finished, on a node."""
    # submitit ignores SIGTERM. So would the workers that are forked here, and nobody could end them.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    benchmark = read_benchmark(folder)
    print(summary(benchmark))
    compare(benchmark)


def slurm_options(texts: Sequence[str]) -> dict[str, Any]:
    """Long options of sbatch without the dashes in front, as KEY=VALUE, or KEY for one without a value.

    >>> slurm_options(["time=60", "cpus-per-task=8", "exclusive"])
    {'time': 60, 'cpus_per_task': '8', 'exclusive': True}

    Raises SemiSupervisedError where submitit is missing, and without a time in minutes.
    """
    if importlib.util.find_spec("submitit") is None:
        raise SemiSupervisedError("--slurm needs submitit; type: pip install submitit")
    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        options[key.lstrip("-").replace("-", "_")] = value if equals else True
    if not str(options.get("time")).isdecimal():
        raise SemiSupervisedError("--slurm needs the time of a job in minutes, e.g. --slurm time=1440 partition=gpu")
    return options | {"time": int(options["time"])}


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
    queue = ["squeue", "--noheader", "--format=%F", f"--jobs={identifiers}"]
    shown = subprocess.run(queue, capture_output=True, text=True, check=False).stdout.split()
    if shown:
        jobs = " ".join(sorted(set(shown)))
        raise SemiSupervisedError(
            f"jobs of this benchmark are in the queue or running: {jobs}; wait for them, or type: scancel {jobs}"
        )


def submit(
    benchmark: Benchmark, device: str, parallel: int | None, options: Mapping[str, Any], cluster: Cluster = "slurm"
) -> list[str]:
    """Write splits and plans, then submit everything that is not finished.

    Args:
        benchmark: what to do.
        device: as nnU-Net names it.
        parallel: how many trainings may run at the same time; None: as many as the cluster lets.
        options: of every job, as `slurm_options` makes them; on a GPU one is asked for, unless they say otherwise.
        cluster: "local" knows no dependencies, so there each stage is waited for.

    Returns:
        The ids of the jobs, an array's once.

    Raises:
        SemiSupervisedError: everything that `write_files` refuses, or sbatch refused.
    """
    write_files(benchmark)
    folder = benchmark.folder.resolve()
    trainings = [TrainingJob(folder, run.name, device) for run in benchmark.runs if not is_finished(run)]
    if device == "cuda" and not any(key == "gres" or key.startswith("gpus") for key in options):
        options = {**options, "gpus_per_node": 1}
    stages: list[tuple[str, list[Callable[[], Any]], str]] = []
    if needs_images(benchmark):
        stages.append(("preprocess", [PreprocessingJob(folder)], "afterok"))
    if trainings:
        stages.append(("train", list(trainings), "afterany"))
    stages.append(("compare", [partial(comparison_job, folder)], "afterany"))

    submitted: list[str] = []
    dependency: str | None = None
    for name, calls, next_condition in stages:
        job = {"job_name": f"{folder.name}-{name}", **options}
        job |= {"dependency": dependency, "kill_on_invalid_dep": "yes"} if dependency is not None else {}
        jobs = _submit_stage(_executor(folder, parallel, job, cluster), calls)
        identifier = jobs[0].job_id.split("_")[0]
        submitted.append(identifier)
        write_json(submitted, folder / _JOBS)
        dependency = f"{next_condition}:{identifier}"
        if cluster == "local":
            for job in jobs:
                job.wait()
    return submitted


def _executor(folder: Path, parallel: int | None, options: Mapping[str, Any], cluster: Cluster) -> Any:
    import submitit

    executor = submitit.AutoExecutor(folder / "slurm" / "%j", cluster=cluster, slurm_max_num_timeout=_REQUEUES)
    # submitit must know the time, by which it tells a time limit from a preemption; the rest is sbatch's business.
    rest = {key: value for key, value in options.items() if key != "time"}
    executor.update_parameters(timeout_min=options["time"], slurm_additional_parameters=rest)
    if "cpus_per_task" in options:
        # Since version 22.05 srun takes no notice of sbatch's, and all workers of nnU-Net would share one core.
        executor.update_parameters(slurm_setup=["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"])
    if parallel is not None:
        executor.update_parameters(slurm_array_parallelism=parallel)
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

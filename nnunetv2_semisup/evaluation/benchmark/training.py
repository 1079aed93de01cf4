"""One run of a benchmark, wherever it is trained: the same on this machine and in a job of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from nnunetv2_semisup.data.lock import held
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.benchmark.commands import train_command
from nnunetv2_semisup.evaluation.benchmark.folder import Benchmark, is_finished
from nnunetv2_semisup.evaluation.benchmark.runs import Run
from nnunetv2_semisup.evaluation.steps import Step, run_step


def attempt(
    benchmark: Benchmark,
    run: Run,
    device: str,
    environment: Mapping[str, str],
    update: Callable[[int], None],
    say: Callable[[str], None],
) -> str | None:
    """Train a run, or what is left of it, and say why that failed; None where the run is finished.

    A training that another process has begun, a killed benchmark's for example, is waited for.

    Args:
        benchmark: whose folder keeps the log and the failure.
        run: one of its runs.
        device: as nnU-Net names it.
        environment: of the training.
        update: called every half second with the number of epochs finished; what it raises ends the training.
        say: called with what the user should know meanwhile.
    """
    told = False

    def waiting() -> None:
        nonlocal told
        if not told:
            say(f"{run.name}: another process is training it, waiting for that")
            told = True
        update(0)

    with held(benchmark.lock(run), waiting) as lock:
        if is_finished(run):
            return None
        benchmark.forget_failure(run)
        step = Step(run.name, train_command(benchmark.request, run, device), epochs=1)
        try:
            run_step(step, benchmark.log(run.name), Path.cwd(), environment, update, inherited=(lock,))
            if is_finished(run):
                return None
            reason = f"{step.command[0]} left no final checkpoint or no validation; see {benchmark.log(run.name)}"
        except SemiSupervisedError as error:
            reason = str(error)
        benchmark.note_failure(run, reason)
        return reason

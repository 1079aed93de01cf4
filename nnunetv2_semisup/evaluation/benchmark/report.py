"""What a benchmark prints: its commands and their cost before, how the runs ended after."""

from __future__ import annotations

from collections.abc import Mapping

from nnunetv2_semisup.evaluation.benchmark.commands import (
    compare_command,
    line,
    plan_command,
    preprocess_command,
    split_command,
    train_command,
)
from nnunetv2_semisup.evaluation.benchmark.cost import Cost
from nnunetv2_semisup.evaluation.benchmark.folder import Benchmark, is_finished
from nnunetv2_semisup.evaluation.benchmark.preparation import needs_images
from nnunetv2_semisup.evaluation.benchmark.settings import assignments


def dry_run(benchmark: Benchmark, device: str, costs: Mapping[str, Cost]) -> str:
    """The commands that are left to do, in order, as a shell script; the cost as its comments."""
    request, runs = benchmark.request, benchmark.runs
    left = [run for run in runs if not is_finished(run)]
    lines = [preprocess_command(request)] if needs_images(benchmark) else []
    lines += [command for run in runs if (command := split_command(request, run))]
    lines += [plan_command(request, run, assignments(request, run)) for run in runs]
    lines += [train_command(request, run, device) for run in left]
    lines.append(compare_command(benchmark))
    commands = list(dict.fromkeys(map(line, lines)))
    return "\n".join([*commands, "", *_cost_table(benchmark, costs)])


def _cost_table(benchmark: Benchmark, costs: Mapping[str, Cost]) -> list[str]:
    runs = benchmark.runs
    left = [run for run in runs if not is_finished(run)]
    stock = sum(costs[run.name].samples / costs[run.name].relative for run in left)
    samples = sum(costs[run.name].samples for run in left)
    lines = [
        f"# {len(runs)} trainings, {len(runs) - len(left)} of them finished.",
        "# Estimated cost: samples through the network, as a multiple of a stock training of the same length. A sample",
        "# through a teacher, which has no backward pass, counts like any other.",
    ]
    width = max(len(run.name) for run in runs)
    for run in runs:
        cost = costs[run.name]
        done = "  finished" if is_finished(run) else ""
        lines.append(f"# {run.name:{width}}  {cost.relative:5.2f}x  {cost.samples:>12,.0f} samples{done}")
    if left:
        lines.append(f"# {'left to do':{width}}  {samples / stock:5.2f}x  {samples:>12,.0f} samples")
    return lines


def summary(benchmark: Benchmark) -> str:
    """How many runs are finished, and why others failed."""
    runs = benchmark.runs
    failed = {run.name: reason for run in runs if (reason := benchmark.failure(run))}
    lines = [f"{sum(map(is_finished, runs))} of {len(runs)} runs are finished"]
    lines += [f"failed: {name}: {reason}" for name, reason in failed.items()]
    if failed:
        lines.append("The same command again tries the failed runs once more and keeps the others.")
    return "\n".join(lines)

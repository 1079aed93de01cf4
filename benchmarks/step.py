"""Time and peak memory of a training step against the stock trainer, in one run, on nnU-Net's own plan.

    python benchmarks/step.py -d 804 -c 3d_fullres --split first4 -device cpu -o docs/reference/results/step_cpu.csv

nnUNet_preprocessed must hold the dataset, planned and with unlabelled cases; sparse ones make MixedKD's sparse batches.
Every arm runs in a process of its own, in turn, `--rounds` times; medians are printed. On a CPU seconds are those of
the process, which other work on the machine disturbs least. "Samples" are patches through a network: labelled and
unlabelled ones with gradient, and a teacher's without. The EMA teacher's forwards are timed within the steps, so that
the step without them can be set against stock's; of a method without such a teacher both are the same. The EMA update
is timed by itself, after the steps. Memory is the peak of all tensors, weights and optimiser included, from building
the trainer to the end of its third step, as torch counts it: on a CPU in a process of its own under torch's profiler,
so that neither the allocator nor the machine's load moves it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from table import publish
from torch.profiler import ProfilerActivity, profile

from nnunetv2_semisup.networks.ema import update_teacher
from nnunetv2_semisup.networks.features import unwrapped

FULL = {"schedule": {"warmup": 0.0, "ramp": 0.0}}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "stock": ("nnUNetTrainer", {}),
    "labeledonly": ("nnUNetTrainerLabeledOnly", {}),
    "mireg": ("nnUNetTrainerMIReg", FULL),
    "mireg, no MI": ("nnUNetTrainerMIReg", {**FULL, "mi": {"weight": 0.0}}),
    "mireg, mean teacher": ("nnUNetTrainerMIReg", {**FULL, "output": {"form": "mean_teacher"}}),
    "mireg, own view": ("nnUNetTrainerMIReg", {**FULL, "output": {"form": "own_view"}}),
    "meanteacher": ("nnUNetTrainerMeanTeacher", FULL),
    "uamt": ("nnUNetTrainerUAMT", FULL),
    "cps": ("nnUNetTrainerCPS", FULL),
    "fixmatch": ("nnUNetTrainerFixMatch", FULL),
    "entropymin": ("nnUNetTrainerEntropyMin", FULL),
    "bim": ("nnUNetTrainerBIM", FULL),
    "bimpretrain": ("nnUNetTrainerBIMPretrain", {}),
    "bimpretrain, all sub-heads": ("nnUNetTrainerBIMPretrain", {"clusters": {"in_turn": False}}),
    "bimpretrain, no losses": ("nnUNetTrainerBIMPretrain", {}),
    "crosslevel": ("nnUNetTrainerCrossLevel", FULL),
    "crosslevel, contrast": ("nnUNetTrainerCrossLevel", {**FULL, "consistency": {"weight": 0.0}}),
    "crosslevel, consistency": ("nnUNetTrainerCrossLevel", {**FULL, "contrast": {"weight": 0.0}}),
    "localcontrast": ("nnUNetTrainerLocalContrast", FULL),
    "mixedkd": ("nnUNetTrainerMixedKD", FULL),
    "mixedkd, the paper's entropy": ("nnUNetTrainerMixedKD", {**FULL, "entropy": {"form": "shannon"}}),
}


def start(arm: str, args: argparse.Namespace) -> tuple[Any, list[Any]]:
    """A trainer in its first epoch, and two labelled batches; its unlabelled ones are ready as well."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    from nnunetv2_semisup.methods import trainer_class

    name, settings = ARMS[arm]
    folder = Path(os.environ["nnUNet_preprocessed"]) / maybe_convert_to_dataset_name(int(args.d))
    plans = json.loads((folder / f"{args.p}.json").read_text()) | {"continue_training": False, "plans_name": "step"}
    if name != "nnUNetTrainer":
        plans["semisup"] = settings | {"data": {"split": args.split}}
    dataset_json = json.loads((folder / "dataset.json").read_text())
    device = torch.device(args.device)
    cls = nnUNetTrainer if name == "nnUNetTrainer" else trainer_class(name)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = cls(plans, args.c, 0, dataset_json, device)
        trainer.on_train_start()
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
    if arm.endswith("no losses"):
        # The same forwards and backwards of the network, with next to nothing in between.
        for regularizer in trainer.heads:
            regularizer._compare = _means_of_features
    batches = [next(trainer.dataloader_train) for _ in range(2)]
    for name in ("dataloader_unlabeled", "dataloader_sparse"):
        if (loader := getattr(trainer, name, None)) is not None:
            setattr(trainer, name, _Cycle([next(loader) for _ in range(2)]))
    return trainer, batches


def measure_time(arm: str, args: argparse.Namespace) -> dict[str, float]:
    """Median seconds a step, of which of the teacher's forwards; samples a step; seconds of an EMA update."""
    trainer, batches = start(arm, args)
    device = torch.device(args.device)
    clock = partial(_now, device)
    teacher = _TimedTeacher(trainer, clock)
    seconds, teacher_seconds = [], []
    for step in range(args.warmup + args.steps):
        teacher.seconds = 0.0
        begin = clock()
        trainer.train_step(batches[step % 2])
        if step >= args.warmup:
            seconds.append(clock() - begin)
            teacher_seconds.append(teacher.seconds)
    all_steps = args.warmup + args.steps
    cost = trainer.cost if hasattr(trainer, "cost") else None
    return {
        "seconds": statistics.median(seconds),
        "teacher": statistics.median(teacher_seconds),
        "samples": cost.samples / all_steps if cost else trainer.batch_size,
        "gradient": cost.gradient_samples / all_steps if cost else trainer.batch_size,
        "ema": _ema_update(trainer, device),
    }


def _now(device: torch.device) -> float:
    """Seconds of this process on a CPU; on a GPU of the clock, when everything has been computed."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class _TimedTeacher:
    """Seconds that the EMA teacher's forwards of a trainer take; 0 where it has none."""

    def __init__(self, trainer: Any, clock: Callable[[], float]) -> None:
        self.seconds = 0.0
        if getattr(trainer, "_ema_decay", None) is None:
            return
        unlabeled_pass = trainer._unlabeled_pass
        forward = unlabeled_pass.forward

        def timed(network: Any, *args: Any) -> Any:
            begin = clock()
            outputs = forward(network, *args)
            if network is trainer.teacher:
                self.seconds += clock() - begin
            return outputs

        unlabeled_pass.forward = timed


def measure_memory(arm: str, args: argparse.Namespace) -> dict[str, float]:
    """Largest number of bytes that all tensors together hold, from building the trainer on."""
    if args.device == "cuda":
        _three_steps(arm, args)
        return {"bytes": float(torch.cuda.max_memory_allocated())}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        _three_steps(arm, args)
    # The public list of events leaves out what operators allocate inside; this one has every allocation and release.
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return {"bytes": float(max(itertools.accumulate(change for _, change in changes)))}


def _three_steps(arm: str, args: argparse.Namespace) -> None:
    trainer, batches = start(arm, args)
    for step in range(3):
        trainer.train_step(batches[step % 2])


def _ema_update(trainer: Any, device: torch.device, repeats: int = 20) -> float:
    """Seconds of one update of the teacher; 0 where there is none, or where it is no moving average."""
    if getattr(trainer, "_ema_decay", None) is None:
        return 0.0
    teacher = trainer.teacher
    start = time.perf_counter()
    for step in range(repeats):
        update_teacher(teacher, unwrapped(trainer.network), 0.99, step + 1)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def _means_of_features(head: Any, moved: torch.Tensor, features: torch.Tensor, **_: Any) -> tuple[torch.Tensor, ...]:
    mean = moved.mean() + features.mean()
    return mean, mean, *(mean.detach(),) * 4


class _Cycle:
    """Batches that are there already: the loader has a benchmark of its own."""

    def __init__(self, batches: list[Any]) -> None:
        self._batches = batches
        self._next = 0

    def __next__(self) -> Any:
        self._next += 1
        return self._batches[self._next % len(self._batches)]


MEASURES: dict[str, Callable[[str, argparse.Namespace], dict[str, float]]] = {
    "time": measure_time,
    "memory": measure_memory,
}


def in_a_process(arm: str, measure: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as results:
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--arm", arm, "--measure", measure],
            env=os.environ | {"nnUNet_n_proc_DA": "0", "nnUNet_results": results},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True)
    parser.add_argument("-c", default="3d_fullres")
    parser.add_argument("-p", default="nnUNetPlans")
    parser.add_argument("--split", help="split file whose unlabelled cases are used as well")
    parser.add_argument("-device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="beside stock")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.arm:
        print(json.dumps(MEASURES[args.measure](args.arm, args)))
        return
    runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in dict.fromkeys(["stock", *args.arms])}
    for _ in range(args.rounds):
        for arm, measured in runs.items():
            measured.append(in_a_process(arm, "time"))
    medians = {
        arm: {key: statistics.median(run[key] for run in measured) for key in measured[0]} | in_a_process(arm, "memory")
        for arm, measured in runs.items()
    }
    base = medians["stock"]
    rows = []
    for arm, value in medians.items():
        without = (value["seconds"] - value["teacher"]) / value["gradient"] / (base["seconds"] / base["gradient"])
        per = {key: value["seconds"] / value[key] / (base["seconds"] / base[key]) for key in ("samples", "gradient")}
        rows.append(
            {
                "arm": arm,
                "samples a step": f"{value['samples']:.0f}",
                "with gradient": f"{value['gradient']:.0f}",
                "seconds a step": f"{value['seconds']:.3f}",
                "step / stock": f"{value['seconds'] / base['seconds']:.2f}",
                "per sample / stock": f"{per['samples']:.2f}",
                "per gradient sample / stock": f"{per['gradient']:.2f}",
                "the same without the teacher's forward": f"{without:.2f}",
                "EMA update / step": f"{value['ema'] / value['seconds']:.3f}",
                "peak MB": f"{value['bytes'] / 1e6:.0f}",
                "peak / stock": f"{value['bytes'] / base['bytes']:.2f}",
            }
        )
    publish(rows, args.output)


if __name__ == "__main__":
    main()

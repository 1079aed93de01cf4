"""Time and memory of class sums against other formulations, and of the whole contrast against a stock step.

    python benchmarks/local_contrast.py sums                                        # the first table, on a CPU
    python benchmarks/local_contrast.py sums --device cuda --sizes 64 96 128        # on a GPU
    python benchmarks/local_contrast.py share -d 804 -c 3d_fullres --split first4   # the second, of a prepared dataset

Sums of a map of features over the voxels of each class, one forward and backward pass, batch 2, contiguous classes:

    ours       product with the matrix of memberships, chunk by chunk; the backward looks up (losses.local_contrast)
    one-hot    the same product in one piece, left to autograd
    index_add  rows of voxels added to rows of classes
    scatter    voxels added to classes along space, channel by channel

The formulations take turns within a round; shown is the median over rounds, and as ratio the median of the ratios
within rounds. On a CPU times are those of the process, which a busy machine disturbs least. Memory is the peak that
torch's profiler counts above the features and their gradient, as a share of the features.

The share: head, contrast and signs of a step's labelled and unlabelled patches with the method's default settings,
forward and backward down to the features, in turn with the supervised step of the stock trainer.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from table import publish
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from nnunetv2_semisup.losses.local_contrast import _ClassSums
from nnunetv2_semisup.regularizers.base import Labeled, Step

BATCH = 2


def ours(features: Tensor, classes: Tensor, count: int) -> Tensor:
    """Chunks, and a look-up in the backward."""
    sums: Tensor = _ClassSums.apply(features, classes, count)  # type: ignore[no-untyped-call]
    return sums


def one_hot(features: Tensor, classes: Tensor, count: int) -> Tensor:
    """A dense matrix of memberships."""
    member = F.one_hot(classes, count).transpose(1, 2).to(features.dtype)
    return member @ features.transpose(1, 2)


def index_add(features: Tensor, classes: Tensor, count: int) -> Tensor:
    """Voxels as rows."""
    keys = classes + count * torch.arange(len(classes), device=classes.device).unsqueeze(1)
    rows = features.transpose(1, 2).flatten(0, 1)
    return torch.zeros(len(classes) * count, features.shape[1], device=features.device).index_add(
        0, keys.flatten(), rows
    )


def scatter(features: Tensor, classes: Tensor, count: int) -> Tensor:
    """Voxels along space."""
    sums = torch.zeros(*features.shape[:2], count, device=features.device)
    return sums.scatter_add(2, classes.unsqueeze(1).expand(-1, features.shape[1], -1), features)


FORMULATIONS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "ours": ours, "one-hot": one_hot, "index_add": index_add, "scatter": scatter,
}  # fmt: skip


def sums(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for size, classes in itertools.product(args.sizes, args.classes):
        passes = {name: _pass(name, args, size, classes) for name in FORMULATIONS}
        seconds = in_turn(passes, args)
        memory = {name: _extra_memory(run, args, size) for name, run in passes.items()}
        for name, taken in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(taken, seconds["ours"], strict=True))
            rows.append(
                {
                    "size": size,
                    "classes": classes,
                    "formulation": name,
                    "ms": f"{1e3 * statistics.median(taken):.3g}",
                    "times ours": f"{ratio:.2f}",
                    "memory / features": f"{memory[name]:.2f}",
                }
            )
    return rows


def _pass(name: str, args: argparse.Namespace, size: int, count: int) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(BATCH, args.width, size**3, generator=generator).to(args.device).requires_grad_()
    # Contiguous, as organs are: neighbouring voxels meet in one sum.
    classes = (torch.arange(size**3, device=args.device) * count // size**3).expand(BATCH, -1)

    def run() -> None:
        torch.autograd.grad(FORMULATIONS[name](features, classes, count).square().sum(), features)
        if args.device == "cuda":
            torch.cuda.synchronize()

    return run


def _extra_memory(run: Callable[[], None], args: argparse.Namespace, size: int) -> float:
    maps = BATCH * args.width * size**3 * 4
    if args.device == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - held - maps) / maps
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        run()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return (max(itertools.accumulate(change for _, change in changes)) - maps) / maps


def in_turn(passes: dict[str, Callable[[], None]], args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each pass in every round but the first."""
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for round_ in range(args.rounds + 1):
        for name, run in passes.items():
            begin = clock()
            run()
            if round_ > 0:
                seconds[name].append(clock() - begin)
    return seconds


def share(args: argparse.Namespace) -> list[dict[str, Any]]:
    from step import start

    rows = []
    with tempfile.TemporaryDirectory() as results:
        os.environ |= {"nnUNet_results": results, "nnUNet_n_proc_DA": "0"}
        stock, batches = start("stock", args)
        trainer, _ = start("localcontrast", args)
    regularizer, batch = trainer.heads[0], batches[0]
    target = batch["target"][0] if isinstance(batch["target"], list) else batch["target"]
    patches = len(target)
    facts = trainer._regularizers[0].facts
    shape = (patches, facts.levels.channels[-1], *target.shape[2:])
    maps = [torch.randn(shape, device=args.device).requires_grad_() for _ in range(2)]
    # Pseudo-labels as the truth is, which costs what a teacher's answers cost.
    logits = F.one_hot(target[:, 0].long().clamp_min(0), facts.n_structures + 1).movedim(-1, 1).float().to(args.device)
    step = Step(
        views=(torch.zeros(patches, 1), torch.zeros(patches, 1)),
        valid=None,
        student=lambda x, taps: (logits, [maps[0]]),
        teacher=lambda x, taps: (logits, []),
        second_decoder=None,
        peer=None,
        labeled=Labeled(batch["data"], target.to(args.device), maps[1]),
        pseudo_label=None,
        progress=0.5,
        number=0,
        generator=torch.Generator(),
        reduce=lambda tensor: tensor,
    )

    def synchronized(run: Callable[[], Any]) -> Callable[[], None]:
        def both() -> None:
            run()
            if args.device == "cuda":
                torch.cuda.synchronize()

        return both

    passes = {
        "stock step": synchronized(lambda: stock.train_step(batch)),
        "contrast": synchronized(lambda: regularizer(step).terms["contrast"].backward()),
    }
    seconds = in_turn(passes, args)
    for name, taken in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(taken, seconds["stock step"], strict=True))
        milliseconds = f"{1e3 * statistics.median(taken):.1f}"
        rows.append({"what": name, "ms": milliseconds, "/ stock step": f"{ratio:.3f}"})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("sums", "share"):
        command = commands.add_parser(name)
        command.add_argument("--device", default="cpu")
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--rounds", type=int, default=9)
        command.add_argument("-o", "--output", type=Path, help="CSV file to write")
    of_sums, of_share = (commands.choices[name] for name in ("sums", "share"))
    of_sums.add_argument("--sizes", type=int, nargs="+", default=[32, 64], help="voxels per axis of a cubic map")
    of_sums.add_argument("--classes", type=int, nargs="+", default=[2, 14])
    of_sums.add_argument("--width", type=int, default=16)
    of_share.add_argument("-d", required=True)
    of_share.add_argument("-c", default="3d_fullres")
    of_share.add_argument("-p", default="nnUNetPlans")
    of_share.add_argument("--split")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    rows = {"sums": sums, "share": share}[args.command](args)
    publish(rows, args.output)


if __name__ == "__main__":
    main()

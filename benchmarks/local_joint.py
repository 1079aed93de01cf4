"""Time and memory of the local joint against the formulations it replaces.

    python benchmarks/local_joint.py                                  # the table of docs/reference on a CPU
    python benchmarks/local_joint.py --device cuda --sizes 32 64 128  # on a GPU
    python benchmarks/local_joint.py --sizes 32 --rounds 3 -o FILE    # short, and the numbers as CSV

All formulations compute the same joint and the same gradients of both maps:

    ours      stacked shifts and matrix products, tile by tile (nnunetv2_semisup.losses.local_joint)
    kernel    A: one map is the convolution kernel of the other
    slices    B: one matrix product of shifted slices per displacement, gradients likewise. Its own backward keeps
              nothing between the passes; left to autograd it is slower and keeps two maps per displacement
    weight    C: the weight gradient of an ordinary convolution, in one call; gradients are two convolutions

Times are of one forward and backward pass, batch 2, random maps. The formulations take turns within a round; shown
is the median over rounds, and as ratio the median of the ratios within rounds, which a busy machine disturbs least.
Memory is the peak above what holds the maps and their gradients, as a share of the two maps: on a CPU the peak
resident size of a process of its own, on a GPU what the allocator counted.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunetv2_semisup.losses.local_joint import local_joint

BATCH = 2


def kernel(z1: Tensor, z2: Tensor, radius: Sequence[int]) -> Tensor:
    """Formulation A: the channels of one map as batch, the other map as kernel."""
    convolve = F.conv3d if len(radius) == 3 else F.conv2d
    return convolve(z1.transpose(0, 1), z2.transpose(0, 1), padding=tuple(radius)).movedim((0, 1), (-2, -1))


class _Slices(torch.autograd.Function):
    """Formulation B."""

    @staticmethod
    def forward(ctx: Any, z1: Tensor, z2: Tensor, radius: Sequence[int]) -> Tensor:
        ctx.save_for_backward(z1, z2)
        ctx.radius = radius
        joint = z1.new_empty(*(2 * r + 1 for r in radius), z1.shape[1], z1.shape[1])
        for lag, here, there in _overlaps(z1.shape[2:], radius):
            joint[lag] = _rows(z1[there]) @ _rows(z2[here]).T
        return joint

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        z1, z2 = ctx.saved_tensors
        grad1, grad2 = torch.zeros_like(z1), torch.zeros_like(z2)
        for lag, here, there in _overlaps(z1.shape[2:], ctx.radius):
            weight = grads[0][lag]
            grad1[there] += torch.einsum("ij,bj...->bi...", weight, z2[here])
            grad2[here] += torch.einsum("ij,bi...->bj...", weight, z1[there])
        return grad1, grad2, None


def slices(z1: Tensor, z2: Tensor, radius: Sequence[int]) -> Tensor:
    """Formulation B: a matrix product of shifted slices per displacement."""
    joint: Tensor = _Slices.apply(z1, z2, radius)  # type: ignore[no-untyped-call]
    return joint


def _rows(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1)


def _overlaps(shape: Sequence[int], radius: Sequence[int]) -> Any:
    """Per displacement its index, and the boxes of v and of v + d where both exist."""
    for lag in product(*(range(2 * r + 1) for r in radius)):
        shifts = [index - r for index, r in zip(lag, radius, strict=True)]
        here = [slice(max(-d, 0), max(size - max(d, 0), 0)) for d, size in zip(shifts, shape, strict=True)]
        there = [slice(max(d, 0), max(size - max(-d, 0), 0)) for d, size in zip(shifts, shape, strict=True)]
        yield lag, (slice(None), slice(None), *here), (slice(None), slice(None), *there)


class _Weight(torch.autograd.Function):
    """Formulation C."""

    @staticmethod
    def forward(ctx: Any, z1: Tensor, z2: Tensor, radius: Sequence[int]) -> Tensor:
        ctx.save_for_backward(z1, z2)
        ctx.radius = radius
        ones, clusters = [1] * len(radius), z1.shape[1]
        weight = z1.new_empty(clusters, clusters, *(2 * r + 1 for r in radius))
        _, counts, _ = torch.ops.aten.convolution_backward(
            z2, z1, weight, None, ones, radius, ones, False, [0] * len(radius), 1, [False, True, False]
        )
        return counts.movedim((0, 1), (-1, -2))  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        z1, z2 = ctx.saved_tensors
        convolve = F.conv3d if len(ctx.radius) == 3 else F.conv2d
        weight1 = grads[0].flip(list(range(len(ctx.radius)))).movedim((-2, -1), (0, 1))
        weight2 = grads[0].movedim((-1, -2), (0, 1))
        return convolve(z2, weight1, padding=ctx.radius), convolve(z1, weight2, padding=ctx.radius), None


def weight(z1: Tensor, z2: Tensor, radius: Sequence[int]) -> Tensor:
    """Formulation C: the weight gradient of a convolution from one map to the other."""
    joint: Tensor = _Weight.apply(z1, z2, radius)  # type: ignore[no-untyped-call]
    return joint


FORMULATIONS: dict[str, Callable[[Tensor, Tensor, Sequence[int]], Tensor]] = {
    "ours": local_joint,
    "kernel": kernel,
    "slices": slices,
    "weight": weight,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64], help="voxels per axis of a cubic map")
    parser.add_argument("--clusters", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--radii", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads; ignored on a GPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(FORMULATIONS), default=list(FORMULATIONS))
    parser.add_argument("-o", "--output", type=Path, help="CSV file to write")
    parser.add_argument("--measure-memory", help=argparse.SUPPRESS)  # one formulation, in a process of its own
    args = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False  # all formulations in float32
    if args.measure_memory:
        torch.set_num_threads(args.threads[0])
        print(_extra_memory(args.measure_memory, args.device, args.sizes[0], args.clusters[0], args.radii[0]))
        return
    print(f"torch {torch.__version__}, {_machine(args.device)}, batch {BATCH}, median of {args.rounds} rounds")
    print("| threads | size | K | radius | formulation | seconds | times ours | memory / maps |")
    print("|---|---|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for size, clusters, radius in product(args.sizes, args.clusters, args.radii):
        for threads in args.threads if args.device == "cpu" else [1]:
            case = {"threads": threads, "size": size, "clusters": clusters, "radius": radius}
            memory = {name: _memory(name, args.device, **case) for name in args.only}
            for name, seconds, ratio in _times(args.only, args.device, args.rounds, **case):
                row = {**case, "formulation": name, "seconds": seconds, "times_ours": ratio, "memory": memory[name]}
                rows.append(row)
                print("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
                sys.stdout.flush()
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with args.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def _pass(name: str, device: str, size: int, clusters: int, radius: int) -> Callable[[], None]:
    torch.manual_seed(0)
    z1, z2 = (torch.rand(BATCH, clusters, *[size] * 3, device=device).requires_grad_() for _ in range(2))
    upstream = torch.rand(*[2 * radius + 1] * 3, clusters, clusters, device=device)

    def run() -> None:
        torch.autograd.grad(FORMULATIONS[name](z1, z2, [radius] * 3), (z1, z2), upstream)
        if device != "cpu":
            torch.cuda.synchronize(device)

    return run


def _times(
    names: Sequence[str], device: str, rounds: int, threads: int, size: int, clusters: int, radius: int
) -> list[tuple[str, float, float]]:
    """Median seconds of every formulation, and the median of its ratio to ours within a round."""
    torch.set_num_threads(threads)
    passes = {name: _pass(name, device, size, clusters, radius) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(rounds + 1):
        for name, run in passes.items():
            start = time.perf_counter()
            run()
            if round_ > 0:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - start)
    ours = seconds.get("ours", [float("nan")] * rounds)
    return [
        (name, statistics.median(s), statistics.median(a / b for a, b in zip(s, ours, strict=True)))
        for name, s in seconds.items()
    ]


def _memory(name: str, device: str, threads: int, size: int, clusters: int, radius: int) -> float:
    arguments = ["--threads", threads, "--sizes", size, "--clusters", clusters, "--radii", radius, "--device", device]
    command = [sys.executable, __file__, "--measure-memory", name, *map(str, arguments)]
    # A fixed threshold makes glibc return every larger block at once, so that the resident size is what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def _extra_memory(name: str, device: str, size: int, clusters: int, radius: int) -> float:
    """Peak memory of one pass beyond the maps and their gradients, in units of the two maps."""
    _pass(name, device, 16, clusters, radius)()  # libraries load, and keep buffers, at first use
    run = _pass(name, device, size, clusters, radius)
    maps = 2 * BATCH * clusters * size**3 * 4
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _status("VmRSS")
        run()
        return (_status("VmHWM") - before - maps) / maps
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    run()
    return (torch.cuda.max_memory_allocated(device) - held - maps) / maps


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _machine(device: str) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return models[0].split(":")[1].strip() if models else platform.processor()


if __name__ == "__main__":
    main()

"""`nnUNetv2_semisup benchmark`: from methods, label counts, folds and seeds to one comparison."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_semisup.arguments import positive

if TYPE_CHECKING:
    from nnunetv2_semisup.evaluation.benchmark.runs import Request

HELP = "train methods and both baselines on the same labelled cases, with several seeds, and compare them"
EXAMPLE = "nnUNetv2_semisup benchmark -d 7 -c 3d_fullres --methods mireg fixmatch --labeled 4 8 -o first_benchmark"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Spelled as nnU-Net spells them."""
    parser.add_argument("-d", required=True, metavar="D", help="dataset id or name")
    parser.add_argument("-c", required=True, metavar="CONFIGURATION", help="2d, 3d_fullres or 3d_lowres")
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="plans of all runs (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", required=True, metavar="METHOD",
                        help="what to compare; labeledonly always takes part, on the labelled cases of the others and "
                             "on all")  # fmt: skip
    parser.add_argument("--labeled", nargs="+", required=True, type=_count, metavar="N",
                        help="how many training cases keep their labels; the others serve as unlabelled ones. "
                             "all: every one keeps them")  # fmt: skip
    parser.add_argument("--first", action="store_true",
                        help="the labelled cases are the first N by name, not a draw of the seed")  # fmt: skip
    parser.add_argument("--folds", nargs="+", type=_number, default=[0], metavar="F", help="default: 0")
    parser.add_argument("--seeds", nargs="+", type=_number, default=[0, 1, 2], metavar="S",
                        help="of the training and, without --first, of the draw of the labelled cases; "
                             "default: 0 1 2")  # fmt: skip
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE",
                        help="settings, each for every method that has it; may be given several times")  # fmt: skip
    parser.add_argument("-o", type=Path, default=Path("benchmark_output"), metavar="DIR",
                        help="folder of this benchmark; the same command again goes on there (default: "
                             "%(default)s)")  # fmt: skip
    parser.add_argument("-device", choices=("cpu", "cuda"), help="default: cuda where there is one, else cpu")
    parser.add_argument("-np", type=positive, metavar="N",
                        help="trainings at the same time, each on a GPU of its own (default: 1; on SLURM as many as "
                             "the cluster lets)")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true",
                        help="print the commands in order and what they cost, and do nothing")  # fmt: skip
    parser.add_argument("--slurm", nargs="+", action="extend", metavar="KEY=VALUE",
                        help="submit to SLURM with these options of sbatch, e.g. time=1440 partition=gpu "
                             "cpus-per-task=8 (time in minutes)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """1 if a run has failed; the others are compared all the same."""
    import torch

    from nnunetv2_semisup.cli.compare import show
    from nnunetv2_semisup.evaluation.benchmark.checks import check_request, check_results
    from nnunetv2_semisup.evaluation.benchmark.comparison import compare
    from nnunetv2_semisup.evaluation.benchmark.cost import cost_of
    from nnunetv2_semisup.evaluation.benchmark.execution import gpu_slots, run_here
    from nnunetv2_semisup.evaluation.benchmark.folder import open_benchmark
    from nnunetv2_semisup.evaluation.benchmark.report import dry_run, summary
    from nnunetv2_semisup.evaluation.benchmark.submission import check_slurm, slurm_options, submit

    device = args.device or ("cuda" if torch.cuda.is_available() or args.slurm else "cpu")
    benchmark = open_benchmark(args.o, partial(_request, args))
    check_request(benchmark.request, device)
    check_results(benchmark)
    costs = {run.name: cost_of(benchmark.request, run) for run in benchmark.runs}
    if args.dry_run:
        print(dry_run(benchmark, device, costs))
        return 0
    if args.slurm:
        options = slurm_options(args.slurm)
        check_slurm(benchmark)
        jobs = submit(benchmark, device, args.np, options)
        print(f"submitted: {' '.join(jobs)}; the comparison will be in {benchmark.comparison}")
        return 0
    run_here(benchmark, device, gpu_slots(device, args.np or 1), {name: cost.epochs for name, cost in costs.items()})
    print(summary(benchmark))
    show(*compare(benchmark))
    return 1 if any(benchmark.status(run) == "failed" for run in benchmark.runs) else 0


def _request(args: argparse.Namespace, name: str) -> Request:
    from nnunetv2_semisup.data.folders import find_dataset
    from nnunetv2_semisup.evaluation.benchmark.runs import Request

    return Request(
        name=name,
        dataset=find_dataset(args.d),
        configuration=args.c,
        plans=args.p,
        methods=tuple(args.methods),
        labeled=tuple(args.labeled),
        first=args.first,
        folds=tuple(args.folds),
        seeds=tuple(args.seeds),
        settings=tuple(args.set),
    )


def _count(text: str) -> int | str:
    return text if text == "all" else positive(text)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number")
    return int(text)

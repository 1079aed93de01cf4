"""`nnUNetv2_semisup demo`: the whole chain in minutes, on data that it makes itself or on the user's."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "train with and without unlabelled images on synthetic patients, in minutes, and show both on a page"
EXAMPLE = "nnUNetv2_semisup demo -o demo_output"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to, which data, which device."""
    parser.add_argument("-o", type=Path, default=Path("demo_output"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--dataset",
        type=Path,
        metavar="DIR",
        help="a raw nnU-Net dataset with imagesUn/ instead of the synthetic one; its files are not changed",
    )
    parser.add_argument("-device", choices=("cpu", "cuda"), help="default: cuda where there is one, else cpu")


def run(args: argparse.Namespace) -> None:
    """Progress goes to standard error; the page's path and one line a trainer to standard output."""
    import torch

    from nnunetv2_semisup.evaluation.demo import foreground_table, open_demo, run_demo
    from nnunetv2_semisup.evaluation.demo_report import write_report

    demo = open_demo(args.o, args.dataset)
    scores = run_demo(demo, args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    page = write_report(demo, scores)
    print(f"\nOpen {page}\n\nDice on the unseen cases")
    print("\n".join(foreground_table(scores)))

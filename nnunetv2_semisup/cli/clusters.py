"""`nnUNetv2_semisup clusters`: what a network has learned without labels, as maps and on a page."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write cluster maps of images, and a page that shows them beside entropy, image gradient and labels"
EXAMPLE = (
    "nnUNetv2_semisup clusters "
    "-m $nnUNet_results/Dataset007_Pancreas/nnUNetTrainerBIMPretrain__nnUNetPlans__3d_fullres "
    "-f all -i $nnUNet_raw/Dataset007_Pancreas/imagesTs -o clusters"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the images, the target and the device."""
    parser.add_argument("-m", metavar="MODEL_FOLDER", type=Path, required=True, help="TRAINER__PLANS__CONFIGURATION")
    parser.add_argument("-f", metavar="FOLD", required=True, help="a fold's number, or all; it may still be training")
    parser.add_argument("-i", metavar="IN", type=Path, required=True, help="folder of images CASE_0000<file_ending>")
    parser.add_argument("-o", metavar="OUT", type=Path, required=True,
                        help="new folder for the maps CASE<file_ending>, clusters.html and overlays")  # fmt: skip
    parser.add_argument("-device", choices=("cpu", "cuda"), help="default: cuda where there is one, else cpu")


def run(args: argparse.Namespace) -> None:
    """Write everything, and say what to open."""
    import torch

    from nnunetv2_semisup.errors import SemiSupervisedError
    from nnunetv2_semisup.evaluation.clusters.clusters import write_clusters

    available = torch.cuda.is_available()
    if args.device == "cuda" and not available:
        raise SemiSupervisedError("-device cuda: there is no CUDA device; type -device cpu")
    device = torch.device(args.device or ("cuda" if available else "cpu"))
    written = write_clusters(args.m, args.f, args.i, args.o, device)
    print(
        f"maps of {written.n_cases} case(s), {written.n_labeled} of them with labels, in {args.o}\nOpen {written.page}"
    )

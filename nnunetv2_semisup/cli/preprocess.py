"""`nnUNetv2_semisup preprocess`: unlabelled images through nnU-Net's preprocessing."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from nnunetv2_semisup.arguments import positive

HELP = "preprocess unlabelled images as nnU-Net preprocesses its training images"
EXAMPLE = "nnUNetv2_semisup preprocess -d 7 -c 3d_fullres -i /scans/2023 /scans/2024 -np 8"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Spelled as nnU-Net spells them."""
    parser.add_argument("-d", dest="dataset", required=True, metavar="DATASET", help="dataset id or name")
    parser.add_argument("-c", dest="configurations", required=True, nargs="+", metavar="CONFIGURATION",
                        help="configurations of the plans: 2d, 3d_fullres, ...")  # fmt: skip
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS",
                        help="plans name, default: %(default)s")  # fmt: skip
    parser.add_argument("-i", dest="folders", action="extend", nargs="+", default=[], type=Path, metavar="FOLDER",
                        help="folders of images CASE_0000.nii.gz, may be given again; "
                             "default: imagesUn of the raw dataset")  # fmt: skip
    parser.add_argument("--training", action="store_true",
                        help="make image-only copies of the training cases too, for those that a split file "
                             "names unlabelled")  # fmt: skip
    parser.add_argument("-np", dest="num_processes", type=positive, metavar="N",
                        help="processes, default: nnU-Net's")  # fmt: skip
    parser.add_argument("--part", type=_part, metavar="I/N", help="the I-th of N parts of the cases, for a job array")
    parser.add_argument("--overwrite", action="store_true",
                        help="make finished cases again, and replace those of other plans or images")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Preprocess; 1 if a case was refused."""
    from nnunetv2.configuration import default_num_processes

    from nnunetv2_semisup.data.folders import (
        find_dataset,
        load_dataset_json,
        load_plans,
        resolve_configuration,
        variable_folder,
    )
    from nnunetv2_semisup.data.inventory import take_inventory
    from nnunetv2_semisup.data.preprocessing import preprocess_unlabeled

    raw = variable_folder("nnUNet_raw")
    name = find_dataset(args.dataset)
    dataset_folder = variable_folder("nnUNet_preprocessed") / name
    plans = load_plans(dataset_folder, args.plans)
    dataset_json = load_dataset_json(dataset_folder)
    for configuration in args.configurations:
        resolve_configuration(plans, configuration)
    num_processes = args.num_processes or default_num_processes
    inventory = take_inventory(raw / name, dataset_json, args.folders, args.training, num_processes)
    for file, reason in inventory.faults.items():
        print(f"{file}: {reason}: refused", file=sys.stderr)
    if not inventory.protected:
        print(f"{raw / name} holds no labelled and no test image; copies of such go unnoticed", file=sys.stderr)
    num_refused = len(inventory.faults)
    for configuration in args.configurations:
        outcome = preprocess_unlabeled(
            dataset_folder, dataset_json, plans, configuration, inventory,
            num_processes=num_processes, part=args.part, overwrite=args.overwrite,
        )  # fmt: skip
        num_refused += len(outcome.refused)
        print(
            f"{configuration}: {len(outcome.made)} cases made, {len(outcome.skipped)} finished before, "
            f"{len(inventory.faults) + len(outcome.refused)} refused, in {outcome.folder}"
        )
    if num_refused:
        print("Some cases were refused, see above; the others are ready. Mend or remove them and type the same command "
              "again.", file=sys.stderr)  # fmt: skip
    return 1 if num_refused else 0


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text} is not I/N with I from 1 to N")
    return int(match[1]), int(match[2])

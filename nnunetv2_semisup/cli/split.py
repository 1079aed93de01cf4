"""`nnUNetv2_semisup split`: let some training cases of a fold keep their labels."""

from __future__ import annotations

import argparse

from nnunetv2_semisup.arguments import positive, seed
from nnunetv2_semisup.errors import SemiSupervisedError

HELP = "write a split file: which training cases of a fold are labelled, which serve as unlabelled ones"
EXAMPLE = "nnUNetv2_semisup split -d 7 -f 0 --labeled 8 --seed 1 -o eight_labelled"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Spelled as nnU-Net spells them."""
    parser.add_argument("-d", dest="dataset", required=True, metavar="DATASET", help="dataset id or name")
    parser.add_argument("-f", dest="fold", required=True, type=_fold, metavar="FOLD",
                        help="a fold of splits_final.json, or all")  # fmt: skip
    parser.add_argument("--labeled", type=positive, metavar="N", help="how many cases keep their labels")
    parser.add_argument("--dense", type=positive, metavar="N",
                        help="for mixed supervision, not --labeled: how many cases have dense labels")  # fmt: skip
    parser.add_argument("--sparse", type=positive, metavar="M",
                        help="and how many of the others have sparse ones; labels are not looked at")  # fmt: skip
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--seed", type=seed, default=0, metavar="SEED",
                        help="of the draw of the labelled cases, default: %(default)s")  # fmt: skip
    choice.add_argument("--first", action="store_true", help="the first N by name instead of a draw")
    parser.add_argument("--group", metavar="REGEX",
                        help="what names the patient in an identifier: all cases of one patient stay together, "
                             "for example '^[^_]+'")  # fmt: skip
    parser.add_argument("-o", dest="name", default="semisup", metavar="NAME",
                        help="writes splits_NAME.json beside the plans, default: %(default)s; "
                             "used by plan --set data.split=NAME")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Write one fold and print what it holds."""
    from nnunetv2_semisup.data.folders import find_dataset, load_dataset_json, variable_folder
    from nnunetv2_semisup.data.splits import make_split, split_file, write_split

    if (args.labeled is None) == (args.dense is None) or (args.dense is None) != (args.sparse is None):
        raise SemiSupervisedError("say how many cases keep their labels: --labeled N, or --dense N --sparse M")
    name = find_dataset(args.dataset)
    dataset_folder = variable_folder("nnUNet_preprocessed") / name
    split_file(dataset_folder, args.name)
    split = make_split(
        dataset_folder,
        variable_folder("nnUNet_raw") / name,
        load_dataset_json(dataset_folder),
        args.fold,
        args.labeled or args.dense,
        num_sparse=args.sparse,
        seed=None if args.first else args.seed,
        group=args.group,
    )
    file = write_split(dataset_folder, args.name, args.fold, split)
    sides = (("dense", split.dense), ("sparse", split.sparse)) if args.dense else (("labelled", split.labeled),)
    kept = ", ".join(f"{len(cases)} {side} ({', '.join(cases)})" for side, cases in sides)
    print(f"{file}, fold {args.fold}: {kept}, "
          f"{len(split.unlabeled)} unlabelled, {len(split.val)} for validation")  # fmt: skip


def _fold(text: str) -> int | str:
    if text == "all":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is neither a fold number nor all")
    return int(text)

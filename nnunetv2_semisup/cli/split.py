"""`nnUNetv2_semisup split`: let some training cases of a fold keep their labels."""

from __future__ import annotations

import argparse

HELP = "write a split file: which training cases of a fold are labelled, which serve as unlabelled ones"
EXAMPLE = "nnUNetv2_semisup split -d 7 -f 0 --labeled 8 --seed 1 -o eight_labelled"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Spelled as nnU-Net spells them."""
    parser.add_argument("-d", dest="dataset", required=True, metavar="DATASET", help="dataset id or name")
    parser.add_argument("-f", dest="fold", required=True, type=_fold, metavar="FOLD",
                        help="a fold of splits_final.json, or all")  # fmt: skip
    parser.add_argument("--labeled", required=True, type=_positive, metavar="N",
                        help="how many cases keep their labels")  # fmt: skip
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--seed", type=int, default=0, metavar="SEED",
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

    name = find_dataset(args.dataset)
    dataset_folder = variable_folder("nnUNet_preprocessed") / name
    split_file(dataset_folder, args.name)
    split = make_split(
        dataset_folder,
        variable_folder("nnUNet_raw") / name,
        load_dataset_json(dataset_folder),
        args.fold,
        args.labeled,
        seed=None if args.first else args.seed,
        group=args.group,
    )
    file = write_split(dataset_folder, args.name, args.fold, split)
    print(f"{file}, fold {args.fold}: {len(split.labeled)} labelled ({', '.join(split.labeled)}), "
          f"{len(split.unlabeled)} unlabelled, {len(split.val)} for validation")  # fmt: skip


def _fold(text: str) -> int | str:
    if text == "all":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is neither a fold number nor all")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)

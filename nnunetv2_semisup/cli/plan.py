"""`nnUNetv2_semisup plan`: a copy of nnU-Net's plans with settings for one method."""

from __future__ import annotations

import argparse

HELP = "write plans with settings for a method, for -p of nnUNetv2_train"
EXAMPLE = "nnUNetv2_semisup plan -d 7 -m mireg --set training.num_epochs=250 training.seed=1 -o my_mireg"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `plan`."""
    parser.add_argument("-d", required=True, metavar="D", help="dataset id or name")
    parser.add_argument("-m", required=True, metavar="METHOD", help="method, e.g. mireg or labeledonly")
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="plans to copy (default: nnUNetPlans)")
    parser.add_argument("-o", metavar="NAME", help="name of the new plans (default: PLANS_METHOD)")
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings that differ from the method's preset; may be given several times",
    )


def run(args: argparse.Namespace) -> int:
    """Write the plans and say how to train with them."""
    from nnunetv2_semisup.data.folders import find_dataset, variable_folder
    from nnunetv2_semisup.data.plans_file import write_plans
    from nnunetv2_semisup.errors import SemiSupervisedError
    from nnunetv2_semisup.methods import methods, trainer_class

    known = methods()
    if args.m not in known:
        raise SemiSupervisedError(f"there is no method {args.m!r}; known are: {', '.join(known)}")
    model = trainer_class(known[args.m]).settings_model()  # type: ignore[attr-defined]
    folder = variable_folder("nnUNet_preprocessed") / find_dataset(args.d)
    file, is_new = write_plans(folder, args.m, model, args.p, args.o, args.set)
    print(f"{'wrote' if is_new else 'there already, with the same settings:'} {file}")
    print(f"train with: nnUNetv2_train {args.d} CONFIGURATION FOLD -tr {known[args.m]} -p {file.stem}")
    return 0

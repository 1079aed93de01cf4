"""`nnUNetv2_semisup export`: a model that stock nnU-Net loads without this package."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

HELP = "write a trained model so that stock nnU-Net predicts with it without this package"
EXAMPLE = (
    "nnUNetv2_semisup export -m $nnUNet_results/Dataset007_Pancreas/nnUNetTrainerMIReg__nnUNetPlans__3d_fullres -o OUT"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the target, which folds and which weights."""
    parser.add_argument("-m", metavar="MODEL_FOLDER", type=Path, required=True, help="TRAINER__PLANS__CONFIGURATION")
    parser.add_argument("-o", metavar="OUT", type=Path, required=True, help="new folder (or zip file) for the model")
    parser.add_argument("-f", metavar="FOLD", nargs="+", help="folds; default: every finished one")
    parser.add_argument(
        "--weights", choices=("student", "teacher"), default="student", help="whose weights; default: student"
    )
    parser.add_argument(
        "--zip", action="store_true", help="one zip file for nnUNetv2_install_pretrained_model_from_zip"
    )


def run(args: argparse.Namespace) -> None:
    """Export, and say where it went and how to predict with it."""
    from nnunetv2_semisup.training.model_export import export_model

    model = export_model(args.m, args.o, args.f, args.weights, args.zip)
    folds = " ".join(model.folds)
    path = shlex.quote(str(model.path))
    print(f"wrote {model.path}, for stock nnU-Net{' of another site' if args.zip else ''}:")
    if args.zip:
        print(f"  nnUNetv2_install_pretrained_model_from_zip {path}")
        print(
            f"  nnUNetv2_predict -d {model.dataset} -p {model.plans} -c {model.configuration} -f {folds} -i IN -o OUT"
        )
    else:
        print(f"  nnUNetv2_predict_from_modelfolder -m {path} -f {folds} -i IN -o OUT")

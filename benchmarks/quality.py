"""Dice of every arm on the development cases: trains with stock commands; a CSV of per-case Dice a run, and of its log.

    python benchmarks/quality.py --data FOLDER --work FOLDER --dataset 804 --arms labeledonly-4 mireg-4 --seeds 0

FOLDER of --data holds raw nnU-Net datasets. A killed run goes on where it stopped when the same command is given.
60 epochs of 50 labelled iterations, batch 2, features 12-24-48-96, stock augmentation, last checkpoint, nnU-Net's own
validation of the fold; "dice_one_piece" is that of the largest component of each class alone, as a post-processing
would leave it. docs/reference/results.md is made of the files by benchmarks/results.py.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn

from nnunetv2_semisup.data.pieces import largest_components
from nnunetv2_semisup.methods import methods
from nnunetv2_semisup.training.run_log import LOG_FILE, read_log

RESULTS = Path(__file__).parent.parent / "docs" / "reference" / "results"
SMALL = "nnUNetPlans_small"
"""Plans with the small network, of which those of all runs are made."""
COMBINATIONS = Path(__file__).parent / "combinations"
"""Trainers of two methods, which the package does not offer."""
TRAIN_CASES = {804: 64, 805: 96}
"""How many cases, by name, are for training; the rest are the validation cases."""
LENGTH = ["training.num_epochs=60", "training.num_iterations_per_epoch=50", "training.num_val_iterations_per_epoch=2"]
ALL_PIECES = "pseudo_label.one_piece=[]"
PAPERS_CROSSLEVEL = [
    "phases.form=contrast_first", "views.form=same", "views.labeled=true", "contrast.weight=1", "contrast.sites=cells",
    "consistency.weight=25", "schedule.warmup=0", "schedule.ramp=0",
]  # fmt: skip
ARMS: dict[str, tuple[str, str | None, list[str]]] = {
    "labeledonly-4": ("labeledonly", "first4", []),
    "labeledonly-all": ("labeledonly", None, []),
    "meanteacher-4": ("meanteacher", "first4", []),
    "meanteacher-weak-4": ("meanteacher", "first4", ["consistency.weight=1"]),
    "uamt-4": ("uamt", "first4", []),
    "cps-4": ("cps", "first4", []),
    "selftraining-4": ("selftraining", "first4", []),
    "selftraining-filter-4": ("selftraining", "first4", ["rounds.filter=agreement"]),
    "entropymin-4": ("entropymin", "first4", []),
    "fixmatch-4": ("fixmatch", "first4", []),
    "fixmatch-pieces-4": ("fixmatch", "first4", [ALL_PIECES]),
    "fixmatch-half-pieces-4": ("fixmatch", "first4", [ALL_PIECES, "mixing.share=0.5"]),
    "fixmatch-cutmix-4": ("fixmatch", "first4", ["mixing.exchange=0"]),
    "fixmatch-exchange-4": ("fixmatch", "first4", ["mixing.exchange=1"]),
    "mireg-4": ("mireg", "first4", []),
    "mireg-nomi-4": ("mireg", "first4", ["mi.weight=0"]),
    "mireg-strong-4": ("mireg", "first4", ["mi.weight=1"]),
    "mireg-noglobal-4": ("mireg", "first4", ["mi.shares=[0,0.5,0.5]"]),
    "mireg-nolocal-4": ("mireg", "first4", ["mi.shares=[1,0,0]"]),
    "mireg-pooled-4": ("mireg", "first4", ["mi.grid=1"]),
    "mireg-mionly-4": ("mireg", "first4", ["pseudo_label.cross_entropy=0", "pseudo_label.dice=0"]),
    "mireg-pieces-4": ("mireg", "first4", [ALL_PIECES]),
    "mireg-unmixed-pieces-4": ("mireg", "first4", [ALL_PIECES, "mixing.share=0"]),
    "mireg-teacher-4": ("mireg", "first4", ["output.form=mean_teacher"]),
    "mireg-own-4": ("mireg", "first4", ["output.form=own_view"]),
    "mireg-own-nomi-4": ("mireg", "first4", ["output.form=own_view", "mi.weight=0"]),
    "bim-4": ("bim", "first4", []),
    "bim-strong-4": ("bim", "first4", ["information.weight=1", "boundary.weight=1"]),
    "localcontrast-4": ("localcontrast", "first4", []),
    "localcontrast-strong-4": ("localcontrast", "first4", ["contrast.weight=0.3"]),
    "localcontrast-1-4": ("localcontrast", "first4", ["contrast.weight=1"]),
    "localcontrast-rounds-4": ("localcontrast", "first4", ["contrast.pseudo_labels=rounds"]),
    "localcontrast-background-4": ("localcontrast", "first4", ["contrast.background=true"]),
    "localcontrast-intra-4": ("localcontrast", "first4", ["contrast.form=intra"]),
    "localcontrast-anchors-4": ("localcontrast", "first4", ["contrast.anchors=3"]),
    "fixmatch-localcontrast-4": ("fixmatch+localcontrast", "first4", []),
    "crosslevel-4": ("crosslevel", "first4", []),
    "crosslevel-contrast-4": ("crosslevel", "first4", ["consistency.weight=0"]),
    "crosslevel-consistency-4": ("crosslevel", "first4", ["contrast.weight=0"]),
    "crosslevel-same-4": ("crosslevel", "first4", ["views.form=same"]),
    "crosslevel-phases-4": ("crosslevel", "first4", ["phases.form=contrast_first", "contrast.weight=1"]),
    "crosslevel-25-4": ("crosslevel", "first4", ["consistency.weight=25"]),
    "crosslevel-paper-4": ("crosslevel", "first4", PAPERS_CROSSLEVEL),
    "crosslevel-code-4": ("crosslevel", "first4", [*PAPERS_CROSSLEVEL, "contrast.negatives=patch", "contrast.norm=L1"]),
    "fixmatch-crosslevel-4": ("fixmatch+crosslevel", "first4", ["data.batch_size=2"]),
    "mixedkd-4": ("mixedkd", "first4", []),
    "mixedkd-self-4": ("mixedkd", "first4", ["ema.decay=0"]),
}
"""Arm -> method, split (None: all training cases are labelled), settings that differ from the preset.

Of "FIRST+SECOND" the second method adds its terms, with its preset; all else is the first one's."""


def prepare(dataset: int) -> None:
    """Plan and preprocess as stock does, make the network small, split, and preprocess the unlabelled images."""
    folder = next(Path(os.environ["nnUNet_raw"]).glob(f"Dataset{dataset:03d}_*"))
    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / folder.name
    if not (preprocessed / "gt_segmentations").exists():
        call("nnUNetv2_plan_and_preprocess", "-d", str(dataset), "-c", "3d_fullres", "-np", "2")
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    kwargs = configuration["architecture"]["arch_kwargs"]
    kwargs["features_per_stage"] = [12, 24, 48, 96, 96, 96][: kwargs["n_stages"]]
    configuration["batch_size"] = 2
    (preprocessed / f"{SMALL}.json").write_text(json.dumps(plans | {"plans_name": SMALL}))
    cases = sorted(case.name.removesuffix(".nii.gz") for case in (folder / "labelsTr").glob("*.nii.gz"))
    train, val = cases[: TRAIN_CASES[dataset]], cases[TRAIN_CASES[dataset] :]
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": train, "val": val}]))
    call("nnUNetv2_semisup", "preprocess", "-d", str(dataset), "-c", "3d_fullres", "-p", SMALL, "--training")
    call("nnUNetv2_semisup", "split", "-d", str(dataset), "-f", "0", "--labeled", "4", "--first", "-o", "first4")


def train(dataset: int, arm: str, seed: int, device: str) -> Path:
    method, split, settings = ARMS[arm]
    name = plans_name(arm, seed)
    chosen = [f"data.split={split}"] if split else []
    values = [*LENGTH, "training.save_every=5", f"training.seed={seed}", *chosen, *settings]
    first, *second = method.split("+")
    if second:
        plan_both(dataset, first, second[0], name, values)
    else:
        plan(dataset, first, name, values)
    return train_plans(dataset, trainer_of(method), name, device, "--c")


def preprocessed_folder(dataset: int) -> Path:
    (folder,) = Path(os.environ["nnUNet_preprocessed"]).glob(f"Dataset{dataset:03d}_*")
    return folder


def fold_folder(dataset: int, trainer: str, plans: str) -> Path:
    """Where a training of the one fold leaves what it makes."""
    results = Path(os.environ["nnUNet_results"])
    return results / preprocessed_folder(dataset).name / f"{trainer}__{plans}__3d_fullres" / "fold_0"


def plans_name(run: str, seed: int) -> str:
    """Of the plans of one training."""
    return f"{SMALL}_{run}_seed{seed}"


def run_folder(dataset: int, arm: str, seed: int) -> Path:
    """Where the training of an arm leaves what it makes."""
    return fold_folder(dataset, trainer_of(ARMS[arm][0]), plans_name(arm, seed))


def train_plans(dataset: int, trainer: str, plans: str, device: str, *options: str) -> Path:
    """Train with stock's command; returns the fold's folder."""
    call("nnUNetv2_train", str(dataset), "3d_fullres", "0", "-tr", trainer, "-p", plans, "-device", device, *options)
    return fold_folder(dataset, trainer, plans)


def trainer_of(method: str) -> str:
    """Class name of a method's trainer; of "FIRST+SECOND" both names together."""
    first, *others = (methods()[name] for name in method.split("+"))
    return "".join([first, *(other.removeprefix("nnUNetTrainer") for other in others)])


def plan(dataset: int, method: str, name: str, values: list[str]) -> None:
    """Plans of a method beside the small ones, with these settings."""
    call("nnUNetv2_semisup", "plan", "-d", str(dataset), "-m", method, "-p", SMALL, "-o", name, "--set", *values)


def plan_both(dataset: int, first: str, second: str, name: str, values: list[str]) -> None:
    """Plans of the first method, with those sections of the second that the first one lacks."""
    preprocessed = preprocessed_folder(dataset)
    both = []
    for method in (first, second):
        plan(dataset, method, f"{name}_{method}", values)
        both.append(json.loads((preprocessed / f"{name}_{method}.json").read_text()))
    ours, theirs = both
    ours["semisup"] = theirs["semisup"] | ours["semisup"]
    (preprocessed / f"{name}.json").write_text(json.dumps(ours | {"plans_name": name}))


def csv_name(dataset: int, arm: str, seed: int) -> str:
    return f"quality_{dataset}_{arm}_seed{seed}.csv"


def write_run(fold: Path, output: Path, dataset: int, arm: str, seed: int) -> None:
    """The files of a finished run. The one of Dice comes last: where it is, the run is not repeated."""
    write_log(fold, output / log_name(dataset, arm, seed))
    write_csv(fold, output / csv_name(dataset, arm, seed))


def write_csv(fold: Path, file: Path) -> None:
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "class", "dice", "dice_one_piece"])
        for case in summary["metric_per_case"]:
            name = Path(case["reference_file"]).name.removesuffix(".nii.gz")
            truth, prediction = (read_labels(case[f"{which}_file"]) for which in ("reference", "prediction"))
            for label, metrics in case["metrics"].items():
                one_piece = dice(truth == int(label), largest_components(prediction == int(label)))
                writer.writerow([name, label, f"{metrics['Dice']:.6f}", f"{one_piece:.6f}"])


def log_name(dataset: int, arm: str, seed: int) -> str:
    return f"log_{dataset}_{arm}_seed{seed}.csv"


def write_log(fold: Path, file: Path) -> None:
    """The run's semisup_log.csv in four digits: terms, gradients and signs of life of every epoch."""
    rows = read_log(fold / LOG_FILE) if (fold / LOG_FILE).exists() else []
    file.parent.mkdir(parents=True, exist_ok=True)
    if rows:
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows({name: value and f"{float(value):.4g}" for name, value in row.items()} for row in rows)


def read_labels(file: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(file))


def dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    tp, fp, fn, _ = compute_tp_fp_fn_tn(truth, prediction)
    return float(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn else math.nan


def call(*command: str) -> None:
    print("$", " ".join(command), flush=True)
    # A planner gives torch as many threads as this variable says, and torch takes no 0.
    workers = {"nnUNet_n_proc_DA": "0" if command[0] == "nnUNetv2_train" else "1"}
    quiet = subprocess.DEVNULL if "preprocess" in command else None
    subprocess.run(command, check=True, stdout=quiet, env=os.environ | workers)


def set_environment(data: Path, work: Path) -> None:
    """nnU-Net's variables for raw data and a folder for all else, and its commands on the path."""
    for variable in ("preprocessed", "results"):
        folder = work.resolve() / variable
        os.environ[f"nnUNet_{variable}"] = str(folder)
        folder.mkdir(parents=True, exist_ok=True)
    os.environ["nnUNet_raw"] = str(data.resolve())
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shims = subprocess.run(["nnUNetv2_semisup", "trainers"], check=True, capture_output=True, text=True)
    os.environ["nnUNet_extTrainer"] = f"{shims.stdout.strip()}{os.pathsep}{COMBINATIONS}"


def run(args: argparse.Namespace) -> None:
    set_environment(args.data, args.work)
    prepare(args.dataset)
    for seed in args.seeds:
        for arm in args.arms:
            if not (args.output / csv_name(args.dataset, arm, seed)).exists():
                write_run(train(args.dataset, arm, seed, args.device), args.output, args.dataset, arm, seed)


def runs_parser(doc: str | None, arms: Iterable[str], seeds: Sequence[int]) -> argparse.ArgumentParser:
    """The options of every script that makes or reads runs: `args.data`, `work`, `dataset`, `arms` and `seeds`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of raw nnU-Net datasets")
    parser.add_argument("--work", type=Path, required=True, help="folder for preprocessed data and results")
    parser.add_argument("--dataset", type=int, choices=TRAIN_CASES, required=True)
    parser.add_argument("--arms", nargs="+", choices=arms, required=True, metavar="ARM", help=", ".join(arms))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds), help="default: %(default)s")
    return parser


def main() -> None:
    parser = runs_parser(__doc__, ARMS, (0, 1, 2))
    parser.add_argument("-device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of the CSV files")
    run(parser.parse_args())


if __name__ == "__main__":
    main()

"""Dice from pre-trained weights and from scratch: pre-trains, fine-tunes, one CSV of per-case Dice a fine-tuning.

    python benchmarks/pretraining.py --data FOLDER --work FOLDER --dataset 804 --arms scratch bim --seeds 0 1 2

FOLDER of --data holds raw nnU-Net datasets. A killed run goes on where it stopped when the same command is given.
Plans, split and validation are those of benchmarks/quality.py. A pre-training sees the images of all training cases, 60
epochs of 50 steps of 2 cases; fine-tuning is training with `--method` from its last checkpoint, at `--rate` with a
warm-up over a tenth of its epochs, for each of `--epochs` under a schedule of its own. From scratch there is no
warm-up. Every seed has a pre-training of its own.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from quality import (
    LENGTH,
    RESULTS,
    call,
    csv_name,
    fold_folder,
    log_name,
    plan,
    plans_name,
    prepare,
    runs_parser,
    set_environment,
    train_plans,
    trainer_of,
    write_log,
    write_run,
)

from nnunetv2_semisup.methods import methods

METHOD = "labeledonly"
"""Stock nnU-Net's training, with the labels of a split."""
RATE = 0.01
"""nnU-Net's own largest learning rate."""
RIVALS = Path(__file__).parent / "rivals"
"""Trainers that BIM is compared with, and that the package does not offer."""
BIM = "nnUNetTrainerBIMPretrain"
ARMS: dict[str, tuple[str, list[str]] | None] = {
    "scratch": None,
    "untrained": (BIM, ["training.num_epochs=1", "training.num_iterations_per_epoch=2", "training.initial_lr=1e-9"]),
    "bim": (BIM, []),
    "bim-slow": (BIM, ["training.initial_lr=2e-4"]),
    "bim-alpha0": (BIM, ["information.alpha=0"]),
    "bim-noboundary": (BIM, ["boundary.weight=0"]),
    "iic": (BIM, ["information.alpha=0", "boundary.weight=0"]),
    "infonce": ("nnUNetTrainerDenseInfoNCE", ["boundary.weight=0"]),
    "masked": ("nnUNetTrainerMaskedReconstruction", []),
}
"""Arm -> trainer of the pre-training, settings that differ from BIM's preset; None: there is none."""


def pretrained(dataset: int, arm: str, seed: int, device: str) -> Path:
    """The last checkpoint of a pre-training, which runs, or goes on, where it is missing."""
    trainer, changes = ARMS[arm] or (BIM, [])
    name = plans_name(f"pre-{arm}", seed)
    chosen = dict(setting.split("=") for setting in [*LENGTH[:2], f"training.seed={seed}", *changes])
    checkpoint = fold_folder(dataset, trainer, name) / "checkpoint_final.pth"
    if not checkpoint.exists():
        plan(dataset, "bimpretrain", name, [f"{key}={value}" for key, value in chosen.items()])
        train_plans(dataset, trainer, name, device, "--c")
    return checkpoint


def fine_tuned(args: argparse.Namespace, arm: str, epochs: int, seed: int) -> Path:
    """The fold's folder of a training from an arm's weights, which runs, or goes on, where it is not finished."""
    settings = [f"data.split=first{args.labels}", f"training.num_epochs={epochs}", *LENGTH[1:], "training.save_every=5"]
    settings += [f"training.seed={seed}"]
    if args.rate != RATE:
        settings.append(f"training.initial_lr={args.rate}")
    start: list[str] = []
    if ARMS[arm] is not None:
        weights = pretrained(args.dataset, arm, seed, args.device)
        write_log(weights.parent, args.output / log_name(args.dataset, f"pre-{arm}", seed))
        start = ["-pretrained_weights", str(weights)]
        settings.append(f"training.lr_warmup_epochs={max(epochs // 10, 1)}")
    name = plans_name(run_name(arm, args.labels, epochs, args.rate, args.method), seed)
    trainer = trainer_of(args.method)
    fold = fold_folder(args.dataset, trainer, name)
    if not (fold / "validation" / "summary.json").exists():
        plan(args.dataset, args.method, name, settings)
        begun = any((fold / f"checkpoint_{which}.pth").exists() for which in ("latest", "final"))
        # nnU-Net takes either weights to start from or a training to go on with.
        train_plans(args.dataset, trainer, name, args.device, *(["--c"] if begun else start))
    return fold


def run_name(arm: str, labels: int, epochs: int, rate: float = RATE, method: str = METHOD) -> str:
    """Of a fine-tuning, in the names of its plans and its file; some from scratch are arms of benchmarks/quality.py."""
    if ARMS[arm] is None and rate == RATE and f"training.num_epochs={epochs}" in LENGTH:
        return f"{method}-{labels}"
    start = arm if method == METHOD else f"{arm}-{method}"
    at = "" if ARMS[arm] is None and rate == RATE else f"rate{rate:g}-"
    return f"{start}-{at}{labels}-epochs{epochs}"


def run_all(args: argparse.Namespace) -> None:
    set_environment(args.data, args.work)
    os.environ["nnUNet_extTrainer"] += f"{os.pathsep}{RIVALS}"
    prepare(args.dataset)
    call(
        "nnUNetv2_semisup", "split", "-d", str(args.dataset), "-f", "0", "--labeled", str(args.labels), "--first",
        "-o", f"first{args.labels}",
    )  # fmt: skip
    for seed in args.seeds:
        for arm in args.arms:
            for epochs in args.epochs:
                run = run_name(arm, args.labels, epochs, args.rate, args.method)
                if not (args.output / csv_name(args.dataset, run, seed)).exists():
                    write_run(fine_tuned(args, arm, epochs, seed), args.output, args.dataset, run, seed)


def main() -> None:
    parser = runs_parser(__doc__, ARMS, (0, 1, 2))
    parser.add_argument("--labels", type=int, default=4, help="labelled cases, the first by name")
    parser.add_argument("--epochs", nargs="+", type=int, default=[60, 30, 15], help="lengths of fine-tuning")
    parser.add_argument("--rate", type=float, default=RATE, help="largest learning rate")
    parser.add_argument("--method", choices=methods(), default=METHOD, help="of fine-tuning")
    parser.add_argument("-device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of the CSV files")
    run_all(parser.parse_args())


if __name__ == "__main__":
    main()

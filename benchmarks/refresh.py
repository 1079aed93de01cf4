"""Time to predict a training's unlabelled cases as pseudo-labels, against stock nnUNetv2_predict on the same images.

    python benchmarks/refresh.py -d 804 -p PLANS --split first4 -device cpu -o docs/reference/results/refresh_cpu.csv

nnU-Net's variables must name the raw dataset, and the preprocessed one with unlabelled cases; the images of the split's
unlabelled cases are taken from imagesTr and imagesUn. One network of random weights serves both: in the middle of a
training of nnUNetTrainerSelfTraining, and from a checkpoint with nnUNetv2_predict in its default settings, which reads
and preprocesses the raw images and writes labels on their grid. Both include loading what they need. The two take
turns. CPU seconds, of all processes together, hardly depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2_semisup.trainers.nnUNetTrainerSelfTraining import nnUNetTrainerSelfTraining
from preprocessing import cpu_seconds
from table import publish

from nnunetv2_semisup.training.labeling import label_cases
from nnunetv2_semisup.training.unlabeled_batches import unlabeled_dataset


def trainer_for(args: argparse.Namespace, results: Path) -> Any:
    """A trainer before its first epoch."""
    os.environ["nnUNet_results"] = str(results)
    folder = Path(os.environ["nnUNet_preprocessed"]) / maybe_convert_to_dataset_name(int(args.d))
    plans = json.loads((folder / f"{args.p}.json").read_text()) | {"continue_training": False, "plans_name": "refresh"}
    plans["semisup"] = {"data": {"split": args.split}}
    dataset_json = json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainerSelfTraining(plans, args.c, 0, dataset_json, torch.device(args.device))
    trainer.on_train_start()
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    return trainer


def link_images(trainer: Any, folder: Path) -> None:
    """The raw images of the unlabelled cases, where nnUNetv2_predict finds them and nothing else."""
    raw = Path(os.environ["nnUNet_raw"]) / trainer.plans_manager.dataset_name
    folder.mkdir()
    for case in trainer.cases.unlabeled:
        for image in (image for part in ("imagesTr", "imagesUn") for image in (raw / part).glob(f"{case}_[0-9]*")):
            (folder / image.name).symlink_to(image.resolve())


def measured(action: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and CPU seconds."""
    begin, cpu = perf_counter(), cpu_seconds()
    action()
    return perf_counter() - begin, cpu_seconds() - cpu


def measure(args: argparse.Namespace, root: Path) -> list[dict[str, object]]:
    """The table's rows."""
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = trainer_for(args, root / "results")
    link_images(trainer, root / "images")
    dataset = unlabeled_dataset(trainer)

    def refresh(turn: int) -> None:
        label_cases(trainer, trainer.network, dataset, dataset.identifiers, root / f"labels_{turn}", agreement=False)

    def predict(turn: int) -> None:
        names = "-d", args.d, "-c", args.c, "-f", "0", "-tr", type(trainer).__name__, "-p", "refresh"
        command = Path(sys.executable).parent / "nnUNetv2_predict"
        folders = "-i", str(root / "images"), "-o", str(root / f"predicted_{turn}")
        subprocess.run([command, *folders, *names, "-device", args.device], check=True, stdout=subprocess.DEVNULL)

    times: dict[str, list[tuple[float, float]]] = {"nnUNetv2_predict": [], "refresh": []}
    for turn in range(args.rounds):
        times["nnUNetv2_predict"].append(measured(lambda turn=turn: predict(turn)))
        times["refresh"].append(measured(lambda turn=turn: refresh(turn)))
    rows: list[dict[str, object]] = []
    stock = times["nnUNetv2_predict"]
    for name, values in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        ratios = [
            [ours / theirs for ours, theirs in zip(*pair, strict=True)] for pair in zip(values, stock, strict=True)
        ]
        of_wall, of_cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
        rows.append(
            {
                "what": name, "cases": len(dataset.identifiers), "seconds": f"{wall:.1f}", "CPU seconds": f"{cpu:.1f}",
                "seconds / stock": f"{of_wall:.2f}", "CPU seconds / stock": f"{of_cpu:.2f}",
            }
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="id of a dataset")
    parser.add_argument("-c", default="3d_fullres", help="configuration")
    parser.add_argument("-p", default="nnUNetPlans", help="plans")
    parser.add_argument("--split", help="of the dataset; without it the cases in imagesUn")
    parser.add_argument("-device", default="cpu")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-o", type=Path, metavar="CSV", help="also write the table there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        publish(measure(args, Path(root)), args.o)


if __name__ == "__main__":
    main()

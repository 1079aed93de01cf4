"""Wall time and memory of `nnUNetv2_semisup compare` on 10 runs of 200 cases.

    python benchmarks/compare_speed.py -np 2 -o docs/reference/results/compare_speed.csv

The dataset is synthetic: balls of about 26,000 voxels in volumes of 44 x 70 x 96, as the left atrium at 1.25 mm,
and segmentations with errors of a few voxels all over their surface. One run is a training of LabeledOnly, whose
checkpoint holds what `compare` reads and no network; the others are folders of segmentations. The whole command is
measured, starting the processes and writing the page included. With a tenth of the cases as well, to see whether memory
grows.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
import psutil
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from nnunetv2_semisup.configuration.settings import Settings

DATASET = "Dataset001_Balls"
SHAPE = (44, 70, 96)
SPACING = (1.25, 1.25, 1.25)
COLUMNS = ("runs", "cases", "processes", "seconds", "CPU seconds", "peak MiB")


def make_workspace(root: Path, runs: int, cases: int) -> list[Path]:
    """Preprocessed dataset and runs; returns the paths to compare."""
    names = [f"case_{i:04}" for i in range(cases)]
    preprocessed = root / "nnUNet_preprocessed" / DATASET
    truth = preprocessed / "gt_segmentations"
    fold = root / "nnUNet_results" / DATASET / "nnUNetTrainerLabeledOnly__nnUNetPlans__3d_fullres" / "fold_0"
    folders = [fold / "validation", *(root / f"peer_{i}" for i in range(1, runs))]
    for folder in (truth, *folders):
        folder.mkdir(parents=True)
    description = {"labels": {"background": 0, "ball": 1}, "file_ending": ".nii.gz", "channel_names": {"0": "x"}}
    (preprocessed / "dataset.json").write_text(json.dumps(description))
    generator = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.arange(n) - n / 2 for n in SHAPE), indexing="ij"))
    distance = np.sqrt((grid**2).sum(0))
    for name in tqdm(names, "Making cases", disable=None):
        radius = generator.uniform(17, 20)
        write(truth / f"{name}.nii.gz", distance < radius)
        for folder in folders:
            ripples = 40 * gaussian_filter(generator.standard_normal(SHAPE).astype(np.float32), 3)
            write(folder / f"{name}.nii.gz", distance < radius + ripples)
    torch.save(checkpoint(names), fold / "checkpoint_final.pth")
    return [fold, *folders[1:]]


def write(file: Path, mask: np.ndarray) -> None:
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(SPACING)
    sitk.WriteImage(image, str(file))


def checkpoint(val: list[str]) -> dict[str, object]:
    """What `compare` reads of a training."""
    configuration = {"data_identifier": "nnUNetPlans_3d_fullres", "batch_size": 2, "architecture": {}}
    plans = {"dataset_name": DATASET, "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
             "transpose_forward": [0, 1, 2], "foreground_intensity_properties_per_channel": {},
             "configurations": {"3d_fullres": configuration}}  # fmt: skip
    training = {"num_epochs": 2, "num_iterations_per_epoch": 2, "initial_lr": 0.01, "seed": 0}
    settings = Settings.parse({"training": training}, "benchmark").model_dump()
    section = {"settings": settings, "cases": {"labeled": ["a"], "unlabeled": [], "val": val}}
    return {
        "network_weights": {},
        "trainer_name": "nnUNetTrainerLabeledOnly",
        "init_args": {"plans": plans, "configuration": "3d_fullres", "fold": 0},
        "current_epoch": 2,
        "logging": {"train_losses": [0.0, -0.5], "ema_fg_dice": [0.1, 0.2]},
        "semisup": section,
    }


def measure(root: Path, paths: list[Path], processes: int) -> tuple[float, float, float]:
    """Seconds, CPU seconds, and the largest MiB of the command and its processes together."""
    variables = {f"nnUNet_{name}": str(root / f"nnUNet_{name}") for name in ("preprocessed", "results")}
    environment = os.environ | variables | {"nnUNet_def_n_proc": str(processes), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "nnunetv2_semisup.cli.main", "compare", *map(str, paths), "-o", str(root / "out")]
    start, cpu_start = perf_counter(), children_seconds()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    peak = 0.0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.is_set():
            try:
                family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                peak = max(peak, sum(member.memory_info().rss for member in family) / 2**20)
            except psutil.NoSuchProcess:
                pass
            sleep(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    seconds = perf_counter() - start
    ended.set()
    watcher.join()
    if status:
        raise SystemExit(f"compare ended with status {status}")
    return seconds, children_seconds() - cpu_start, peak


def children_seconds() -> float:
    """CPU time of all processes that have ended; it hardly depends on what else the machine does."""
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("-np", type=int, default=2, help="processes, default: %(default)s")
    parser.add_argument("-o", type=Path, metavar="CSV", help="also write the table there")
    args = parser.parse_args()
    rows = []
    for cases in (args.cases // 10, args.cases):
        with tempfile.TemporaryDirectory() as root:
            paths = make_workspace(Path(root), args.runs, cases)
            seconds, cpu, peak = measure(Path(root), paths, args.np)
        rows.append((args.runs, cases, args.np, f"{seconds:.0f}", f"{cpu:.0f}", f"{peak:.0f}"))
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    if args.o:
        with args.o.open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()

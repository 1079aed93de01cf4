"""Unlabelled samples per second, and memory over many of them, for 0, 1 and 2 worker processes.

    python benchmarks/loader.py -d 7 -c 3d_fullres          # cases that nnUNetv2_semisup preprocess has written
    python benchmarks/loader.py --patch 96 96 96            # cases made for the purpose
    python benchmarks/loader.py --patch 96 96 96 -o loader.csv

A sample is one crop in two views under nnU-Net's default augmentation. Compare the rate with what a training
step eats (benchmarks/step.py); the processor time says what the rate would be on a machine that does nothing
else. Memory is what the processes hold alone (USS) at the end, and its growth over the second half of the samples.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tqdm import tqdm

from nnunetv2_semisup.data.dataset import UnlabeledDataset
from nnunetv2_semisup.data.folders import find_dataset, load_plans, resolve_configuration, variable_folder
from nnunetv2_semisup.data.loader import UnlabeledLoader, start_loader, stop_loader
from nnunetv2_semisup.data.manifest import unlabeled_folder
from nnunetv2_semisup.data.random_streams import RandomStreams
from nnunetv2_semisup.data.views import split_transforms

VIEWS = ("stock", "stock")
MIB = 2**20


@dataclass
class Row:
    """One line of the table."""

    processes: int
    samples: int
    samples_per_second: float
    cpu_ms_per_sample: float
    first_batch_s: float
    memory_mib: float
    growth_mib: float


def loader_like_training(dataset: UnlabeledDataset, patch_size: list[int], batch_size: int) -> UnlabeledLoader:
    """Crop size and augmentation as nnUNetTrainer chooses them for this patch."""
    trainer = SimpleNamespace(
        configuration_manager=SimpleNamespace(patch_size=patch_size), print_to_log_file=lambda *_: None
    )
    rotation, dummy_2d, initial_size, mirror_axes = (
        nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(trainer)
    )
    transform = nnUNetTrainer.get_training_transforms(patch_size, rotation, None, mirror_axes, dummy_2d)
    return UnlabeledLoader(
        dataset, batch_size, initial_size, patch_size, split_transforms(transform), VIEWS, RandomStreams(0)
    )


@contextmanager
def made_dataset(patch_size: list[int], cases: int = 8) -> Iterator[UnlabeledDataset]:
    """Noise, a third larger than the patch along each axis, stored as nnU-Net stores it."""
    shape = (1, *[1] * (3 - len(patch_size)), *(size * 4 // 3 for size in patch_size))
    blocks, chunks = comp_blosc2_params(shape, patch_size)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        names = [f"case_{index}" for index in range(cases)]
        for name in tqdm(names, desc="make cases", disable=None):
            image = rng.standard_normal(shape, np.float32)
            nonzero = np.zeros(shape, np.int16)
            nnUNetDatasetBlosc2.save_case(image, nonzero, {}, str(Path(folder) / name), chunks=chunks, blocks=blocks)
        yield UnlabeledDataset(Path(folder), names)


def measure(loader: UnlabeledLoader, processes: int, samples: int) -> Row:
    augmenter = start_loader(loader, processes, pin_memory=False)
    try:
        drawing = [psutil.Process(pid) for pid in _drawing(augmenter, processes)]
        start = time.perf_counter()
        next(augmenter)
        first = time.perf_counter() - start
        batches = max(samples // loader.batch_size, 10)
        memory = []
        spent = -_cpu_seconds(drawing)
        start = time.perf_counter()
        for index in tqdm(range(batches), desc=f"{processes} workers", disable=None):
            next(augmenter)
            if index in (batches // 2, batches - 1):
                memory.append(sum(process.memory_full_info().uss for process in drawing) / MIB)
        seconds = time.perf_counter() - start
        spent += _cpu_seconds(drawing)
    finally:
        stop_loader(augmenter)
    drawn = batches * loader.batch_size
    return Row(processes, drawn, drawn / seconds, 1000 * spent / drawn, first, memory[1], memory[1] - memory[0])


def _drawing(augmenter: Any, processes: int) -> list[int]:
    return [worker.pid for worker in augmenter._processes] if processes else [os.getpid()]


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(time.user + time.system for time in times)


def print_table(rows: list[Row]) -> None:
    names = [field.name for field in fields(Row)]
    print("| " + " | ".join(names) + " |\n|" + " --- |" * len(names))
    for row in rows:
        print("| " + " | ".join(f"{value:.4g}" for value in astuple(row)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("-d", help="dataset, by id or name")
    source.add_argument("--patch", type=int, nargs="+", help="patch size of the cases to make")
    parser.add_argument("-c", default="3d_fullres", help="configuration of -d")
    parser.add_argument("-p", default="nnUNetPlans", help="plans of -d")
    parser.add_argument("-b", type=int, default=2, help="batch size")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--processes", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("-o", type=Path, help="CSV file")
    args = parser.parse_args()
    if args.patch:
        with made_dataset(args.patch) as dataset:
            loader = loader_like_training(dataset, args.patch, args.b)
            rows = [measure(loader, processes, args.samples) for processes in args.processes]
    else:
        preprocessed = variable_folder("nnUNet_preprocessed") / find_dataset(args.d)
        configuration = resolve_configuration(load_plans(preprocessed, args.p), args.c)
        folder = unlabeled_folder(preprocessed, configuration.data_identifier)
        dataset = UnlabeledDataset(folder, sorted(nnUNetDatasetBlosc2.get_identifiers(str(folder))))
        loader = loader_like_training(dataset, list(configuration.patch_size), args.b)
        rows = [measure(loader, processes, args.samples) for processes in args.processes]
    print_table(rows)
    if args.o:
        with args.o.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([field.name for field in fields(Row)])
            writer.writerows(astuple(row) for row in rows)


if __name__ == "__main__":
    main()

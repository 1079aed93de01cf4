"""A benchmark on this machine: some trainings at a time, each on a GPU of its own."""

from __future__ import annotations

import errno
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import TextIO

import torch
from tqdm import tqdm

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.benchmark.folder import Benchmark, is_finished
from nnunetv2_semisup.evaluation.benchmark.preparation import environment, needs_images, preprocess_images, write_files
from nnunetv2_semisup.evaluation.benchmark.runs import Run
from nnunetv2_semisup.evaluation.benchmark.training import attempt
from nnunetv2_semisup.evaluation.steps import hang_up_ends

_DISK_FULL = (*(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT)), "make room")
"""What a failed training says then. torch hides the system's own words; ours for a checkpoint are the last."""


def run_here(benchmark: Benchmark, device: str, slots: Sequence[Mapping[str, str]], epochs: Mapping[str, int]) -> None:
    """Prepare, and train what is not finished.

    Args:
        benchmark: what to do.
        device: as nnU-Net names it.
        slots: variables of the trainings that run at the same time, one mapping for each.
        epochs: length of every run, by its name.

    Raises:
        SemiSupervisedError: the preparation failed, or the disk is full. A failed run does not raise: it is noted in
            the benchmark's folder.
    """
    board = Board(benchmark, epochs)
    try:
        with hang_up_ends(), board:
            write_files(benchmark)
            if needs_images(benchmark):
                board.say("preprocessing the unlabelled images")
                preprocess_images(benchmark, lambda _: None)
            _train(benchmark, device, slots, board)
    except OSError as error:
        raise SemiSupervisedError(
            f"{error.filename or benchmark.folder}: {error.strerror}; mend that and type the same command again, "
            "it goes on"
        ) from error


def gpu_slots(device: str, number: int) -> list[dict[str, str]]:
    """Variables for `number` trainings at the same time: each sees one GPU; on the CPU they share it.

    Raises SemiSupervisedError where there are fewer GPUs than trainings.
    """
    if device != "cuda":
        return [{} for _ in range(number)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    if not gpus:
        raise SemiSupervisedError("-device cuda: there is no CUDA device; type -device cpu")
    if number > len(gpus):
        raise SemiSupervisedError(f"-np {number}: there are {len(gpus)} GPUs; ask for at most that many trainings")
    return [{"CUDA_VISIBLE_DEVICES": gpu.strip()} for gpu in gpus[:number]]


class Board:
    """A bar over the epochs of all runs on a terminal, and one line for each run that begins or ends."""

    def __init__(self, benchmark: Benchmark, epochs: Mapping[str, int], stream: TextIO | None = None) -> None:
        """`epochs`: length of every run, by its name."""
        self._epochs = epochs
        self._done = {run.name: epochs[run.name] if is_finished(run) else 0 for run in benchmark.runs}
        self._stream = stream or sys.stderr
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._bar = tqdm(
            total=sum(epochs.values()),
            initial=sum(self._done.values()),
            unit="epoch",
            file=self._stream,
            disable=not self._stream.isatty(),
        )

    def __enter__(self) -> Board:
        """The bar is there from the start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal in order."""
        self._bar.close()

    def say(self, text: str) -> None:
        """One line that begins with the minutes and seconds since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        with self._lock:
            tqdm.write(f"{minutes:3d}:{seconds:02d}  {text}", file=self._stream)
            self._stream.flush()

    def show(self, run: Run, epochs: int) -> None:
        """How many epochs of a run are finished."""
        with self._lock:
            self._done[run.name] = max(self._done[run.name], min(epochs, self._epochs[run.name]))
            self._bar.n = sum(self._done.values())
            self._bar.refresh()

    def finish(self, run: Run) -> None:
        """All epochs of a run, also those of an earlier call."""
        self.show(run, self._epochs[run.name])


class _Stopped(Exception):
    """Raised in a worker thread when the benchmark is ending."""


def _train(benchmark: Benchmark, device: str, slots: Sequence[Mapping[str, str]], board: Board) -> None:
    """Every run that is not finished. On leaving, by an exception too, no training of ours is left."""
    free: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)
    stop = threading.Event()
    disk_full: list[str] = []
    runs = benchmark.runs

    def update(run: Run, epochs: int) -> None:
        if stop.is_set():
            raise _Stopped
        board.show(run, epochs)

    def work(run: Run) -> None:
        if disk_full:  # whoever is training may still have room for its next checkpoint; nobody else begins
            return
        title = f"[{runs.index(run) + 1}/{len(runs)}] {run.name}"
        board.say(title)
        began = time.monotonic()
        slot = free.get()
        try:
            reason = attempt(benchmark, run, device, {**environment(), **slot}, partial(update, run), board.say)
        finally:
            free.put(slot)
        if reason is None:
            board.finish(run)
        elif any(words in reason for words in _DISK_FULL):
            disk_full.append(reason)
        board.say(f"{title}: {f'failed: {reason}' if reason else f'{time.monotonic() - began:.0f} s'}")

    pool = ThreadPoolExecutor(len(slots))
    try:
        for future in as_completed([pool.submit(work, run) for run in runs if not is_finished(run)]):
            future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    if disk_full:
        raise SemiSupervisedError(f"the disk is full: {disk_full[0]}; make room and type the same command again")

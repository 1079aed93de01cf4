"""Workers, and how they end; the division of nnU-Net's process budget; memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunetv2_semisup.data.dataset import UnlabeledDataset
from nnunetv2_semisup.data.loader import process_budget, start_loader, stop_loader
from nnunetv2_semisup.data.random_streams import RandomStreams
from nnunetv2_semisup.errors import SemiSupervisedError
from tests.data.cases import coordinate_dataset
from tests.data.test_loader import augmented_loader, equal

TRAINING = """
import sys, time
from pathlib import Path
from nnunetv2_semisup.data.dataset import UnlabeledDataset
from nnunetv2_semisup.data.loader import UnlabeledLoader, start_loader
from nnunetv2_semisup.data.random_streams import RandomStreams
from nnunetv2_semisup.data.views import ViewTransforms

dataset = UnlabeledDataset(Path(sys.argv[1]), ["case_0"])
loader = UnlabeledLoader(dataset, 2, (8, 8, 8), (8, 8, 8), ViewTransforms(), ("stock",) * 2, RandomStreams(None))
augmenter = start_loader(loader, 2, pin_memory=False)
next(augmenter)
print(*(worker.pid for worker in augmenter._processes), flush=True)
if sys.argv[2] == "exception":
    raise KeyError
while True:
    next(augmenter) if sys.argv[2] == "busy" else time.sleep(1)
"""


@pytest.fixture(name="dataset")
def _dataset(tmp_path: Path) -> UnlabeledDataset:
    return coordinate_dataset(tmp_path, [(20, 24, 22), (16, 16, 30), (6, 11, 9)])


@pytest.fixture(name="started")
def _started() -> Iterator[list[Any]]:
    """Whatever a test puts here is stopped, also when the test fails."""
    augmenters: list[Any] = []
    yield augmenters
    for augmenter in augmenters:
        stop_loader(augmenter)


def gone(pid: int) -> bool:
    """Ended, though perhaps nobody has asked for its exit status yet."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_each_worker_has_a_stream_of_its_own(dataset: UnlabeledDataset, started: list[Any]) -> None:
    # What the two workers must draw, replayed in this process from the same seed.
    replay = augmented_loader(dataset, 5)
    spawned = replay.streams.spawn()
    expected = []
    for worker in range(2):
        loader = augmented_loader(dataset)
        loader.streams = RandomStreams(None)
        loader.streams.load_state_dict(spawned.state_dict())
        loader.set_thread_id(worker)
        expected += [next(loader) for _ in range(12)]

    np.random.seed(0)
    torch.manual_seed(0)
    numbers = np.random.get_state()[1].tolist(), torch.get_rng_state()
    loader = augmented_loader(dataset, 5)
    augmenter = start_loader(loader, 2, pin_memory=False)
    started.append(augmenter)
    drawn = [next(augmenter) for _ in range(8)]
    assert np.random.get_state()[1].tolist() == numbers[0]
    assert torch.equal(torch.get_rng_state(), numbers[1])
    positions = [[index for index, batch in enumerate(expected) if equal(batch, one)] for one in drawn]
    assert all(len(found) == 1 for found in positions)
    assert len({found[0] for found in positions}) == len(drawn)

    stop_loader(augmenter)
    again = start_loader(loader, 2, pin_memory=False)
    started.append(again)
    assert not any(equal(batch, one) for one in [next(again) for _ in range(4)] for batch in expected)


def test_no_process_is_one_loader_in_this_one(dataset: UnlabeledDataset) -> None:
    loader = augmented_loader(dataset, 5)
    augmenter = start_loader(loader, 0, pin_memory=False)
    assert isinstance(augmenter, SingleThreadedAugmenter)
    assert equal(next(augmenter), next(augmented_loader(dataset, 5)))
    stop_loader(augmenter)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_stopping_is_quiet_leaves_no_process_and_may_be_repeated(dataset: UnlabeledDataset) -> None:
    for batches in range(4):
        augmenter = start_loader(augmented_loader(dataset), 2, pin_memory=False)
        assert isinstance(augmenter, NonDetMultiThreadedAugmenter)
        workers = list(augmenter._processes)
        assert all(worker.is_alive() for worker in workers)
        for _ in range(batches):
            next(augmenter)
        for _ in range(2):
            stop_loader(augmenter)
            assert not any(worker.is_alive() for worker in workers)
        assert not set(workers) & set(multiprocessing.active_children())


def test_a_failing_worker_stops_the_training_and_leaves_nothing(tmp_path: Path) -> None:
    dataset = coordinate_dataset(tmp_path, [(12, 12, 12)])
    (tmp_path / "case_0.b2nd").write_bytes(b"truncated")
    augmenter = start_loader(augmented_loader(dataset), 2, pin_memory=False)
    workers = list(augmenter._processes)
    with pytest.raises(RuntimeError, match="no longer alive"):
        next(augmenter)
    stop_loader(augmenter)
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.parametrize(
    ("way", "number", "last_words"),
    [
        ("exception", None, "KeyError"),
        ("busy", signal.SIGINT, "KeyboardInterrupt"),
        ("busy", signal.SIGTERM, None),
        ("idle", signal.SIGKILL, None),
    ],
)
def test_no_worker_outlives_its_training(
    tmp_path: Path, way: str, number: signal.Signals | None, last_words: str | None
) -> None:
    coordinate_dataset(tmp_path, [(12, 12, 12)])
    command = [sys.executable, "-c", TRAINING, str(tmp_path), way]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as training:
        assert training.stdout is not None
        assert training.stderr is not None
        workers = [int(pid) for pid in training.stdout.readline().split()]
        assert len(workers) == 2
        if number is not None:
            time.sleep(0.2)
            assert not any(gone(pid) for pid in workers)
            # Ctrl-C reaches every process of the terminal, other signals only the one they are sent to.
            send = os.killpg if number is signal.SIGINT else os.kill
            send(training.pid, number)
        training.wait(timeout=60)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not all(gone(pid) for pid in workers):
            time.sleep(0.1)
        orphans = [pid for pid in workers if not gone(pid)]
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
        assert not orphans
        if last_words is not None:
            assert training.stderr.read().splitlines()[-1] == last_words


def test_spawned_workers_work(dataset: UnlabeledDataset, started: list[Any]) -> None:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        augmenter = start_loader(augmented_loader(dataset, 5), 1, pin_memory=False)
        started.append(augmenter)
        drawn = [next(augmenter) for _ in range(2)]
    finally:
        multiprocessing.set_start_method(before, force=True)
    replay = augmented_loader(dataset, 5)
    replay.streams = replay.streams.spawn()
    replay.set_thread_id(0)
    assert all(equal(batch, next(replay)) for batch in drawn)


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_memory_stays_flat_over_a_thousand_samples(tmp_path: Path, started: list[Any], processes: int) -> None:
    dataset = coordinate_dataset(tmp_path, [(20, 20, 20)] * 50)
    loader = augmented_loader(dataset)
    augmenter = start_loader(loader, processes, pin_memory=False)
    started.append(augmenter)
    measured = [process.pid for process in augmenter._processes] if processes else [os.getpid()]
    memory = []
    for batch in range(600):
        next(augmenter)
        if batch in (99, 599):
            memory.append([psutil.Process(pid).memory_info().rss for pid in measured])
    # A cache of what was read would hold 1,000 crops of 100 KB more; of the cases, 5 MB.
    assert all(after - before < 4e6 for before, after in zip(*memory, strict=True))


@pytest.mark.fast
@pytest.mark.parametrize(
    ("total", "share", "labeled", "unlabeled"),
    [("0", 0.5, 0, 0), ("1", 0.5, 1, 1), ("2", 0.5, 1, 1), ("2", 0.9, 1, 1), ("6", 0.5, 3, 3), ("6", 0.3, 4, 2),
     ("6", 0, 5, 1), ("6", 1, 1, 5), ("7", 2 / 3, 2, 5)],
)  # fmt: skip
def test_the_process_budget_is_divided(
    monkeypatch: pytest.MonkeyPatch, total: str, share: float, labeled: int, unlabeled: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setenv("nnUNet_n_proc_DA", total)
    with process_budget(share) as processes:
        assert processes == unlabeled
        assert get_allowed_n_proc_DA() == labeled
    assert get_allowed_n_proc_DA() == int(total)


def test_the_budget_is_nnunets_where_nothing_is_set_and_capped_by_the_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    with process_budget(0.5) as processes:
        assert (os.environ["nnUNet_n_proc_DA"], processes) == ("2", 2)
    assert "nnUNet_n_proc_DA" not in os.environ


def test_the_budget_comes_back_after_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    with pytest.raises(KeyError):
        _fail_within_budget()
    assert os.environ["nnUNet_n_proc_DA"] == "2"


def _fail_within_budget() -> None:
    with process_budget(0.5):
        raise KeyError


@pytest.mark.parametrize("value", ["many", "-1", "2.5", ""])
def test_a_budget_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", value)
    with pytest.raises(SemiSupervisedError, match="export nnUNet_n_proc_DA=N"), process_budget(0.5):
        pass

"""Failures, stops and a full disk, with short commands in place of trainings; real ones are in tests/cli."""

import os
import signal
import threading
import time

import pytest

from nnunetv2_semisup.data.lock import held
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.benchmark import training
from nnunetv2_semisup.evaluation.benchmark.execution import gpu_slots, run_here
from nnunetv2_semisup.evaluation.benchmark.folder import fold_folder, is_finished, save_benchmark
from nnunetv2_semisup.evaluation.benchmark.report import summary
from tests.data.copies import copy_of
from tests.evaluation.benchmark.asked import benchmark_in, finish
from tests.evaluation.test_steps import running

pytestmark = pytest.mark.fast

FINISH = """
import os, pathlib, sys, time
(folder,) = map(pathlib.Path, sys.argv[1:])
(folder / "validation").mkdir(parents=True, exist_ok=True)
(folder / "environment").write_text(f"{os.getpid()} {time.time()} {os.environ.get('CUDA_VISIBLE_DEVICES')}")
time.sleep(0.1)
for name in ("checkpoint_final.pth", "validation/summary.json", "validation/semisup_validation.json"):
    (folder / name).touch()
"""
BREAK = "import sys; print('Traceback'); sys.exit('ValueError: out of luck')"
FULL = (
    "import os, errno, sys; sys.exit(os.strerror(errno.ENOSPC))",
    """
from pathlib import Path
import sys, torch
from nnunetv2_semisup.training.checkpoint import save_with_section
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "checkpoint_latest.pth.tmp").symlink_to("/dev/full")
save_with_section(lambda stream: torch.save({}, stream), folder / "checkpoint_latest.pth", {})
""",
)


@pytest.fixture
def benchmark(toy, tmp_path):
    """Only baselines: nothing is to be preprocessed."""
    workspace = copy_of(toy, tmp_path)
    with workspace.active():
        yield benchmark_in(tmp_path / "b", methods=("labeledonly",), seeds=(0, 1))


@pytest.fixture
def commands(monkeypatch):
    """Name of a run -> the Python code that stands for its training; FINISH unless a test says otherwise."""
    chosen = {}
    monkeypatch.setattr(
        training,
        "train_command",
        lambda request, run, device: ("python", "-c", chosen.get(run.name, FINISH), str(fold_folder(run))),
    )
    return chosen


def run(benchmark, slots=({},)):
    run_here(benchmark, "cpu", slots, {run.name: 4 for run in benchmark.runs})


def notes(benchmark):
    return [(fold_folder(run) / "environment").read_text().split() for run in benchmark.runs]


def test_everything_is_trained_once_in_order(benchmark, commands, capsys):
    run(benchmark)
    assert all(map(is_finished, benchmark.runs))
    began = [float(note[1]) for note in notes(benchmark)]
    assert began == sorted(began)
    before = notes(benchmark)
    said = capsys.readouterr().err
    assert [line[8:] for line in said.splitlines()[::2]] == [
        f"[{number}/4] {run.name}" for number, run in enumerate(benchmark.runs, start=1)
    ]
    run(benchmark)
    assert notes(benchmark) == before
    assert capsys.readouterr().err == ""


def test_a_failed_run_does_not_stop_the_others_and_is_tried_again(benchmark, commands, capsys):
    broken = benchmark.runs[1]
    commands[broken.name] = BREAK
    run(benchmark)
    assert [benchmark.status(run) for run in benchmark.runs] == ["finished", "failed", "finished", "finished"]
    assert f"{broken.name}: failed: python failed: ValueError: out of luck" in capsys.readouterr().err
    lines = summary(benchmark).splitlines()
    assert lines[0] == "3 of 4 runs are finished"
    assert lines[1].startswith(f"failed: {broken.name}: python failed: ValueError: out of luck; everything it printed")
    assert benchmark.log(broken.name).read_text().startswith("Traceback")
    del commands[broken.name]
    run(benchmark)
    assert summary(benchmark) == "4 of 4 runs are finished"


def test_a_training_without_its_results_has_failed(benchmark, commands):
    commands[benchmark.runs[0].name] = "print('I did nothing')"
    run(benchmark)
    assert "left no final checkpoint or no validation" in str(benchmark.failure(benchmark.runs[0]))


def test_trainings_at_the_same_time_have_a_gpu_each(benchmark, commands):
    run(benchmark, ({"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "6"}))
    assert all(map(is_finished, benchmark.runs))
    assert {note[2] for note in notes(benchmark)} == {"4", "6"}


def test_gpus_are_those_that_are_visible(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5,GPU-8a")
    assert gpu_slots("cuda", 2) == [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    with pytest.raises(SemiSupervisedError, match="-np 4: there are 3 GPUs"):
        gpu_slots("cuda", 4)
    assert gpu_slots("cpu", 2) == [{}, {}]


@pytest.mark.parametrize("full", FULL)
def test_a_full_disk_stops_with_one_line_and_the_same_command_goes_on(benchmark, commands, full):
    commands[benchmark.runs[1].name] = full
    with pytest.raises(SemiSupervisedError, match=r"the disk is full: .*make room and type the same command") as error:
        run(benchmark)
    assert "\n" not in str(error.value)
    assert [benchmark.status(run) for run in benchmark.runs] == ["finished", "failed", "unfinished", "unfinished"]
    kept = (fold_folder(benchmark.runs[0]) / "environment").read_text()
    commands.clear()
    run(benchmark)
    assert (fold_folder(benchmark.runs[0]) / "environment").read_text() == kept
    assert all(map(is_finished, benchmark.runs))


def test_a_folder_that_cannot_be_written_is_one_line(benchmark, commands):
    save_benchmark(benchmark)
    in_the_way = benchmark.log(benchmark.runs[1].name)
    in_the_way.mkdir()
    with pytest.raises(SemiSupervisedError, match=r"logs.*; mend that and type the same command again, it goes on"):
        run(benchmark)
    in_the_way.rmdir()
    run(benchmark)
    assert all(map(is_finished, benchmark.runs))


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs /proc")
def test_an_interrupted_benchmark_leaves_no_training(benchmark, commands):
    sleeping = FINISH.replace("time.sleep(0.1)", "time.sleep(60)")
    for one in benchmark.runs[:2]:
        commands[one.name] = sleeping

    def interrupt():
        deadline = time.monotonic() + 60
        while not all((fold_folder(run) / "environment").exists() for run in benchmark.runs[:2]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(benchmark, ({}, {}))
    thread.join()
    pids = [int((fold_folder(run) / "environment").read_text().split()[0]) for run in benchmark.runs[:2]]
    assert not any(map(running, pids))
    assert [benchmark.status(run) for run in benchmark.runs] == ["unfinished"] * 4


def test_a_training_of_another_process_is_waited_for_and_not_repeated(benchmark, commands, capsys):
    save_benchmark(benchmark)
    first = benchmark.runs[0]
    commands[first.name] = BREAK
    taken, said = threading.Event(), threading.Event()

    def train_elsewhere():
        with held(benchmark.lock(first), lambda: None):
            taken.set()
            assert said.wait(60)
            finish(benchmark, first)

    thread = threading.Thread(target=train_elsewhere)
    thread.start()
    taken.wait(60)
    monitor = threading.Timer(1.5, said.set)
    monitor.start()
    run(benchmark)
    thread.join()
    assert f"{first.name}: another process is training it, waiting for that" in capsys.readouterr().err
    assert all(map(is_finished, benchmark.runs))

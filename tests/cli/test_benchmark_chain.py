"""One benchmark at the console, killed at three points, finished by jobs of submitit, and compared."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nnunetv2_semisup.evaluation.benchmark.folder import fold_folder, is_finished, read_benchmark
from nnunetv2_semisup.evaluation.benchmark.submission import slurm_options, submit
from nnunetv2_semisup.training.run_log import read_log
from tests.data.copies import copy_of
from tests.evaluation.benchmark.asked import TINY
from tests.workspace import Workspace

METHOD = "entropymin"
COMMAND = [
    "benchmark", "-d", "901", "-c", "3d_fullres", "--methods", METHOD, "--labeled", "2", "--seeds", "0",
    "-device", "cpu", "--set", *TINY,
]  # fmt: skip


@pytest.fixture
def workspace(toy: Workspace, tmp_path: Path):
    workspace = copy_of(toy, tmp_path, with_unlabeled=False)
    with workspace.active():
        yield workspace


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nnunetv2_semisup.cli.main", *COMMAND, "-o", str(folder)]
    return subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def kill(process: subprocess.Popen[str], *, with_children: bool) -> str:
    """SIGKILL, to it alone or to all its processes; what it had printed."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in children if with_children else []:
        child.kill()
    psutil.wait_procs(children if with_children else [], timeout=60)
    return process.communicate()[0]


def wait_for(process: subprocess.Popen[str], condition, seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def test_killed_at_three_points_finished_on_a_cluster_and_compared(workspace: Workspace, tmp_path: Path):
    folder = tmp_path / "b"

    # Killed in the preparation: the next call begins anew and finds what is there.
    process = start(folder)
    wait_for(process, lambda: (folder / "logs" / "preprocess.txt").exists())
    kill(process, with_children=True)
    runs = read_benchmark(folder).runs
    baseline, method, everything = runs
    assert [run.name.split("_")[0] for run in runs] == ["labeledonly-2", f"{METHOD}-2", "labeledonly-all"]
    assert not (folder / "preprocessed").exists()

    # Killed in the first training, which lives on: the next call waits for it and does not train it again.
    process = start(folder)
    wait_for(process, (fold_folder(baseline) / "checkpoint_latest.pth").exists)
    kill(process, with_children=False)
    process = start(folder)
    wait_for(process, lambda: is_finished(baseline))

    # Killed in the second, together with it: it is half, and goes on with --c.
    wait_for(process, (fold_folder(method) / "checkpoint_latest.pth").exists)
    said = kill(process, with_children=True)
    assert f"{baseline.name}: another process is training it, waiting for that" in said
    assert not is_finished(method)
    assert not fold_folder(everything).exists()

    # The rest by submitit, which runs its jobs as processes here.
    submit(read_benchmark(folder), "cpu", None, slurm_options(["time=20"]), cluster="local")
    assert all(map(is_finished, runs))
    assert len(list(fold_folder(baseline).glob("training_log_*.txt"))) == 1
    assert len(list(fold_folder(method).glob("training_log_*.txt"))) == 2
    assert [int(row["epoch"]) for row in read_log(fold_folder(method) / "semisup_log.csv")] == [0, 1, 2]
    resumed = read_benchmark(folder).log(method.name).read_text()
    assert "Epoch 0\n" not in resumed
    assert "Epoch 2\n" in resumed
    first_report = (folder / "comparison" / "table.csv").read_text()

    # All is done: the same command compares only, and says the same.
    process = start(folder)
    said = process.communicate(timeout=900)[0]
    assert process.returncode == 0, said
    assert "3 of 3 runs are finished" in said
    assert f"Open {folder / 'comparison' / 'index.html'}" in said
    assert "LabeledOnly, labels all" in said
    assert (folder / "comparison" / "table.csv").read_text() == first_report
    with (folder / "comparison" / "table.csv").open(newline="") as stream:
        methods = [row["method"] for row in csv.DictReader(stream)]
    assert len(methods) == 3

"""The whole way at the console, once: from raw images to predictions without this package."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from nnunetv2_semisup.data.synthetic import make_dataset
from nnunetv2_semisup.training.run_log import read_log
from tests.workspace import DATASET, VARIABLES

NUMBER = DATASET[7:10]
TRAINER = "nnUNetTrainerMIReg"
SETTINGS = [
    "training.num_epochs=4", "training.num_iterations_per_epoch=2", "training.num_val_iterations_per_epoch=1",
    "training.save_every=1", "training.seed=4", "data.split=few",
]  # fmt: skip


class Console:
    """Commands of this environment, in a workspace of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.started: list[subprocess.Popen[bytes]] = []
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet")}
        self.environment |= {f"nnUNet_{name}": str(root / name) for name in VARIABLES}
        self.environment |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment["nnUNet_extTrainer"] = self.run("nnUNetv2_semisup", "trainers").strip()

    def run(self, *command: str, **environment: str) -> str:
        """Standard output of a command that must succeed."""
        done = subprocess.run(
            command, env=self.environment | environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """A command in the background, its output dropped."""
        process = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.started.append(process)
        return process

    def end(self) -> None:
        """Leave nothing running, also where a test failed."""
        for process in self.started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """Planned and preprocessed by commands; the network is made small in the plans file."""
    root = tmp_path_factory.mktemp("console")
    for name in VARIABLES:
        (root / name).mkdir()
    make_dataset(root / "raw" / DATASET, n_labeled=5, n_unlabeled=3, n_test=2, shape=(16, 24, 24), seed=3)
    console = Console(root)
    console.run(
        "nnUNetv2_plan_and_preprocess", "-d", NUMBER, "-c", "3d_fullres", "-np", "1", "-npfp", "1", "--no_pbar",
        nnUNet_n_proc_DA="1",
    )  # fmt: skip
    plans = root / "preprocessed" / DATASET / "nnUNetPlans.json"
    content = json.loads(plans.read_text())
    configuration = content["configurations"]["3d_fullres"]
    kwargs = configuration["architecture"]["arch_kwargs"]
    kwargs["features_per_stage"] = [4] * kwargs["n_stages"]
    plans.write_text(json.dumps(content))
    yield console
    console.end()


def fold_folder(console: Console, plans: str) -> Path:
    return console.root / "results" / DATASET / f"{TRAINER}__{plans}__3d_fullres" / "fold_0"


def wait_for(condition, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.2)


def probabilities(folder: Path) -> dict[str, np.ndarray]:
    return {file.stem: np.load(file)["probabilities"] for file in sorted(folder.glob("*.npz"))}


def test_the_whole_way(console):
    run = console.run
    unlabeled = run("nnUNetv2_semisup", "preprocess", "-d", NUMBER, "-c", "3d_fullres", "--training", "-np", "1")
    assert "Traceback" not in unlabeled
    run("nnUNetv2_semisup", "split", "-d", NUMBER, "-f", "0", "--labeled", "2", "--first", "-o", "few")
    run("nnUNetv2_semisup", "plan", "-d", NUMBER, "-m", "mireg", "--set", *SETTINGS, "-o", "chain")
    train = ["nnUNetv2_train", NUMBER, "3d_fullres", "0", "-tr", TRAINER, "-p", "chain", "-device", "cpu"]
    fold = fold_folder(console, "chain")

    process = console.start(*train, "--npz")
    wait_for(lambda: (fold / "checkpoint_latest.pth").exists() or process.poll() is not None)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (fold / "checkpoint_final.pth").exists()
    run(*train, "--npz", "--c")
    assert [int(row["epoch"]) for row in read_log(fold / "semisup_log.csv")] == [0, 1, 2, 3]
    assert (fold / "semisup_progress.png").exists()
    wait_for(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children), 30)

    (fold / "validation" / "summary.json").unlink()
    run(*train, "--val", "--npz")
    assert (fold / "validation" / "summary.json").exists()

    images = str(console.root / "raw" / DATASET / "imagesTs")
    ours, theirs = console.root / "ours", console.root / "theirs"
    predict = ["--save_probabilities", "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_progress_bar"]
    run(
        "nnUNetv2_predict", "-d", NUMBER, "-c", "3d_fullres", "-f", "0", "-tr", TRAINER, "-p", "chain",
        "-i", images, "-o", str(ours), *predict,
    )  # fmt: skip
    exported = console.root / "exported"
    run("nnUNetv2_semisup", "export", "-m", str(fold.parent), "-o", str(exported))
    run(
        "nnUNetv2_predict_from_modelfolder", "-m", str(exported), "-f", "0", "-i", images, "-o", str(theirs), *predict,
        nnUNet_extTrainer="",
    )  # fmt: skip
    a, b = probabilities(ours), probabilities(theirs)
    assert a.keys() == b.keys()
    assert len(a) == 2
    assert all(np.array_equal(a[case], b[case]) for case in a)

    # Stock commands around ours.
    select = ["-tr", TRAINER, "-p", "chain", "-f", "0"]
    run("nnUNetv2_accumulate_crossval_results", NUMBER, "-c", "3d_fullres", *select)
    run("nnUNetv2_find_best_configuration", NUMBER, "-c", "3d_fullres", *select, "-np", "1")
    ensembled = console.root / "ensembled"
    run("nnUNetv2_ensemble", "-i", str(ours), str(theirs), "-o", str(ensembled), "-np", "1")
    assert len(list(ensembled.glob("*.nii.gz"))) == 2
    archive = console.root / "model.zip"
    run(
        "nnUNetv2_export_model_to_zip", "-d", NUMBER, "-c", "3d_fullres", "-tr", TRAINER, "-p", "chain", "-f", "0",
        "-o", str(archive),
    )  # fmt: skip
    elsewhere = console.root / "elsewhere"
    run("nnUNetv2_install_pretrained_model_from_zip", str(archive), nnUNet_results=str(elsewhere))
    assert list(elsewhere.rglob("checkpoint_final.pth"))


@pytest.mark.parametrize(
    ("phase", "number", "status"),
    [
        ("training", signal.SIGTERM, 143),
        ("training", signal.SIGINT, -signal.SIGINT),
        ("validation", signal.SIGTERM, 143),
    ],
)
def test_a_signal_leaves_no_process_and_no_half_file(console, phase, number, status):
    console.run("nnUNetv2_semisup", "preprocess", "-d", NUMBER, "-c", "3d_fullres", "-np", "1")
    epochs = 500 if phase == "training" else 1
    settings = [f"training.num_epochs={epochs}", "training.save_every=1", "training.num_iterations_per_epoch=2"]
    name = f"{phase}_{number.name}"
    console.run("nnUNetv2_semisup", "plan", "-d", NUMBER, "-m", "mireg", "--set", *settings, "-o", name)
    fold = fold_folder(console, name)
    process = console.start("nnUNetv2_train", NUMBER, "3d_fullres", "0", "-tr", TRAINER, "-p", name, "-device", "cpu")

    def is_reached() -> bool:
        logs = "".join(log.read_text() for log in fold.glob("training_log_*.txt"))
        return "predicting" in logs if phase == "validation" else (fold / "checkpoint_latest.pth").exists()

    wait_for(lambda: is_reached() or process.poll() is not None)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(number)
    assert process.wait(timeout=60) == status
    wait_for(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children), 30)
    assert not list(fold.rglob("*.tmp*"))


def test_the_message_is_the_last_line_under_stock_commands(console):
    done = subprocess.run(
        ["nnUNetv2_train", NUMBER, "3d_fullres", "0", "-tr", TRAINER, "-p", "chain", "-device", "cpu"],
        env=console.environment | {"nnUNet_results": "/proc/nowhere"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].startswith("nnunetv2_semisup.errors.SemiSupervisedError: ")

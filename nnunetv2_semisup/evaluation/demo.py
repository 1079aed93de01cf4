"""The demo: nnU-Net with and without unlabelled images, through the console scripts that a user types."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.demo_data import configuration_of, dataset_name, make_demo_dataset
from nnunetv2_semisup.evaluation.dice import DiceScores, folder_dice
from nnunetv2_semisup.evaluation.small_plans import small_plans
from nnunetv2_semisup.evaluation.steps import Progress, Step, command_path, hang_up_ends, run_step

TRAINERS = {"nnUNetTrainerLabeledOnly": "labeledonly", "nnUNetTrainerMIReg": "mireg"}
"""Class name -> METHOD of the two arms, in the order in which they are trained and shown."""
TRAINING: dict[str, int | float] = {
    "num_epochs": 20,
    "num_iterations_per_epoch": 25,
    "num_val_iterations_per_epoch": 2,
    "initial_lr": 0.03,  # nnU-Net's 0.01 is for 250,000 steps; in 500 it learns nothing small
    "seed": 0,
}
"""Settings of both trainings."""
SMALL_PLANS = "nnUNetPlansSmall"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
"""nnU-Net's folders inside the demo's; the variables of the sub-processes have the same names."""

_MARKER = "nnunetv2_semisup_demo.json"
_OURS = (*FOLDERS, "predictions", "logs", "index.html")
# What the result depends on. A demo of other code is not taken up but started over.
_CODE = ("configuration", "data", "evaluation", "losses", "networks", "plans", "regularizers", "trainers", "training")


@dataclass(frozen=True)
class Work:
    """A step that is no command: a function of ours."""

    title: str
    do: Callable[[], None]


@dataclass(frozen=True)
class Finished:
    """A step that is done."""

    title: str
    command: str
    """As a user would type it in the demo's folder; empty where it was no command."""
    seconds: float


@dataclass
class Demo:
    """The folder of a demo and what is finished in it."""

    folder: Path
    source: Path | None
    """The user's raw dataset, or None for the synthetic one."""
    dataset: str
    """DatasetXXX_NAME"""
    configuration: str
    about: str = ""
    """One sentence about the data."""
    finished: list[Finished] = field(default_factory=list)

    @property
    def raw(self) -> Path:
        """Folder of the raw dataset."""
        return self.folder / "nnUNet_raw" / self.dataset

    def predictions(self, trainer: str) -> Path:
        """Folder of a trainer's predictions of the unseen cases."""
        return self.folder / "predictions" / trainer

    def fold_folder(self, trainer: str) -> Path:
        """Where nnU-Net leaves a trainer's checkpoint and logs."""
        model = f"{trainer}__{plans_name(trainer)}__{self.configuration}"
        return self.folder / "nnUNet_results" / self.dataset / model / "fold_all"

    def save(self) -> None:
        """Write the marker, by which a later run knows the folder and goes on in it."""
        state = self.identity() | {"about": self.about, "finished": [asdict(step) for step in self.finished]}
        marker = self.folder / _MARKER
        temporary = marker.with_suffix(".tmp")
        temporary.write_text(json.dumps(state, indent=1))
        os.replace(temporary, marker)

    def identity(self) -> dict[str, Any]:
        """What must be the same for a finished step to count."""
        return {"source": None if self.source is None else str(self.source), "code": _code_hash()}


def plans_name(trainer: str) -> str:
    """Name of the plans with a trainer's settings."""
    return f"{SMALL_PLANS}_{TRAINERS[trainer]}"


def open_demo(folder: Path, source: Path | None = None) -> Demo:
    """Make the demo's folder, or take up a demo that was begun in it.

    A demo of the same code goes on where it stopped; one of other code is started over.

    Raises:
        SemiSupervisedError: the source is no raw dataset, or the folder holds something else or the demo of another
            dataset. Nothing is deleted then.
    """
    source = None if source is None else source.resolve()
    demo = Demo(folder.resolve(), source, dataset_name(source), configuration_of(source))
    marker = demo.folder / _MARKER
    if marker.is_file():
        before = json.loads(marker.read_text())
        if before["source"] != demo.identity()["source"]:
            raise SemiSupervisedError(
                f"{folder} holds the demo of {before['source'] or 'the synthetic dataset'}; name another folder: -o DIR"
            )
        if before["code"] == demo.identity()["code"]:
            demo.about = before["about"]
            demo.finished = [Finished(**step) for step in before["finished"]]
        else:
            _clear(demo.folder)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SemiSupervisedError(f"{folder} is no folder of a demo; name another one: -o DIR")
    try:
        demo.folder.mkdir(parents=True, exist_ok=True)
        demo.save()
    except OSError as error:
        raise SemiSupervisedError(f"cannot write to {folder} ({error.strerror}); name another folder: -o DIR") from None
    return demo


def run_demo(demo: Demo, device: str) -> dict[str, DiceScores]:
    """Run what is not finished yet; Dice on the unseen cases by trainer.

    Raises:
        SemiSupervisedError: a step failed. Those before it stay finished.
    """
    logs = demo.folder / "logs"
    logs.mkdir(exist_ok=True)
    environment = demo_environment(demo)
    done = {step.title for step in demo.finished}
    steps = demo_steps(demo, device)
    progress = Progress(n_steps=len(steps) + 1)
    with hang_up_ends():
        for step in steps:
            if step.title in done:
                progress.skip(step.title)
                continue
            began = time.monotonic()
            with progress.step(step.title, step.epochs if isinstance(step, Step) else None) as update:
                if isinstance(step, Step):
                    run_step(step, logs / f"{step.title.replace(' ', '_')}.txt", demo.folder, environment, update)
                else:
                    step.do()
            command = step.line if isinstance(step, Step) else ""
            demo.finished.append(Finished(step.title, command, time.monotonic() - began))
            demo.save()
        with progress.step("evaluate on the unseen cases"):
            return {trainer: _dice(demo, trainer) for trainer in TRAINERS}


def demo_steps(demo: Demo, device: str) -> list[Step | Work]:
    """Everything up to the predictions, in the order of a real use."""
    number = str(int(demo.dataset[len("Dataset") :][:3]))
    data = ("-d", number, "-c", demo.configuration)
    settings = tuple(f"training.{key}={value}" for key, value in TRAINING.items())
    model = {trainer: ("-tr", trainer, "-p", plans_name(trainer)) for trainer in TRAINERS}
    unseen = str((demo.raw / "imagesTs").relative_to(demo.folder))
    steps: list[Step | Work] = [
        Work("make the dataset", partial(_make_data, demo)),
        Step("plan and preprocess", ("nnUNetv2_plan_and_preprocess", *data, "-np", "2", "-npfp", "2")),
        Work("choose a small network", partial(_write_small_plans, demo)),
        Step("preprocess the unlabelled images", ("nnUNetv2_semisup", "preprocess", *data, "-np", "2")),
    ]
    for method in TRAINERS.values():
        plan = ("nnUNetv2_semisup", "plan", "-d", number, "-m", method, "-p", SMALL_PLANS, "--set", *settings)
        steps.append(Step(f"settings of {method}", plan))
    for trainer in TRAINERS:
        train = ("nnUNetv2_train", number, demo.configuration, "all", *model[trainer], "-device", device)
        # Without worker processes the seed makes the numbers the same on every run. (Planning does not accept 0 here.)
        steps.append(Step(f"train {trainer}", train, int(TRAINING["num_epochs"]), {"nnUNet_n_proc_DA": "0"}))
    for trainer in TRAINERS:
        folders = ("-i", unseen, "-o", str(demo.predictions(trainer).relative_to(demo.folder)))
        predict = ("nnUNetv2_predict", *data, "-f", "all", *model[trainer], *folders, "-device", device)
        steps.append(Step(f"predict with {trainer}", (*predict, "-npp", "1", "-nps", "1")))
    return steps


def demo_environment(demo: Demo) -> dict[str, str]:
    """Variables of the sub-processes: nnU-Net's four point into the demo's folder; the caller's own stay untouched."""
    extension = importlib.import_module("nnunetv2_semisup.extension").__path__[0]
    ours = {
        "nnUNet_extTrainer": extension,
        "nnUNet_def_n_proc": "2",
        "nnUNet_compile": "f",
        "nnUNet_wandb_enabled": "0",
        "MPLBACKEND": "agg",
        "PATH": command_path(),
        "PYTHONUNBUFFERED": "1",
    }
    return dict(os.environ) | {name: str(demo.folder / name) for name in FOLDERS} | ours


def _make_data(demo: Demo) -> None:
    demo.about = make_demo_dataset(demo.source, demo.raw)


def _write_small_plans(demo: Demo) -> None:
    folder = demo.folder / "nnUNet_preprocessed" / demo.dataset
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    small = small_plans(plans, demo.configuration, SMALL_PLANS)
    (folder / f"{SMALL_PLANS}.json").write_text(json.dumps(small, indent=4))


def _dice(demo: Demo, trainer: str) -> DiceScores:
    return folder_dice(demo.predictions(trainer), demo.raw / "labelsTs", demo.raw / "dataset.json", num_processes=1)


def _clear(folder: Path) -> None:
    """Remove what a demo writes, and nothing else."""
    for name in (*_OURS, _MARKER):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _code_hash() -> str:
    digest = hashlib.sha256()
    for name in _CODE:
        folder = Path(importlib.import_module(f"nnunetv2_semisup.{name}").__path__[0])
        for path in sorted([*folder.glob("*.py"), *folder.glob("*.toml")]):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def foreground_table(scores: dict[str, DiceScores]) -> list[str]:
    """A heading and one line a trainer: class name, mean foreground Dice, Dice of each structure."""
    width = max(map(len, scores))
    labels: Sequence[str] = next(iter(scores.values())).labels
    columns = ["mean", *labels]
    lines = [" ".join([" " * width, *(column.rjust(max(6, len(column))) for column in columns)])]
    for trainer, score in scores.items():
        values = [score.foreground_mean, *score.per_label]
        cells = [f"{value:.3f}".rjust(max(6, len(c))) for value, c in zip(values, columns, strict=True)]
        lines.append(" ".join([trainer.ljust(width), *cells]))
    return lines

"""Two real trainings, and copies of them in which one thing is changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2_semisup.data.folders import write_json
from nnunetv2_semisup.data.splits import Split, write_split
from nnunetv2_semisup.training.checkpoint_reading import read_checkpoint
from tests.workspace import DATASET, Workspace, make_workspace

TRAIN = [f"labeled_{i:03}" for i in range(4)]
VAL = [f"labeled_{i:03}" for i in range(4, 8)]
SETTINGS: dict[str, Any] = {
    "training": {"num_epochs": 2, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1, "seed": 0},
    "data": {"split": "few"},
}


@dataclass(frozen=True)
class Lab:
    """A workspace with finished trainings, and a folder for copies of them."""

    workspace: Workspace
    trained: Mapping[str, Path]
    """The folds of nnUNetTrainerLabeledOnly and nnUNetTrainerEntropyMin as they were trained."""
    copies: Path

    @property
    def truth(self) -> Path:
        """The true segmentations."""
        return self.workspace.dataset_folder / "gt_segmentations"

    def run(
        self,
        trainer: str = "LabeledOnly",
        *,
        seed: int | None = 0,
        labels: int | str = 2,
        errors: float | None = None,
        change: Callable[[dict[str, Any]], None] = lambda checkpoint: None,
        name: str = "run",
    ) -> Path:
        """A copy of a training with another seed or label count.

        Args:
            trainer: LabeledOnly or EntropyMin.
            seed: of the copy.
            labels: 2, or "all".
            errors: share of the truth's foreground that the segmentations miss; None leaves the trained ones.
            change: what else is different in the checkpoint.
            name: part of the plans' name.
        """
        source = self.trained[trainer]
        fold = self.copies / f"nnUNetTrainer{trainer}__{name}_{trainer}-{labels}_seed{seed}__3d_fullres" / "fold_0"
        shutil.copytree(source, fold)
        checkpoint = read_checkpoint(fold / "checkpoint_final.pth")
        section = checkpoint["semisup"]
        section["settings"]["training"]["seed"] = seed
        if labels == "all":
            section["settings"]["data"]["split"] = None
            section["cases"]["labeled"] = list(TRAIN)
        change(checkpoint)
        torch.save(checkpoint, fold / "checkpoint_final.pth")
        if errors is not None:
            write_segmentations(fold / "validation", self.truth, errors, seed or 0)
        return fold

    def segmentations(self, name: str, errors: float = 0.3, seed: int | None = None) -> Path:
        """A folder of segmentations from elsewhere; with a seed one of several below it."""
        folder = self.copies / name if seed is None else self.copies / name / f"seed_{seed}"
        folder.mkdir(parents=True)
        write_segmentations(folder, self.truth, errors, 100 + (seed or 0))
        return folder if seed is None else folder.parent


def write_segmentations(folder: Path, truth: Path, errors: float, seed: int) -> None:
    """The truth of the validation cases without a share of its foreground, which differs from case to case."""
    generator = np.random.default_rng(seed)
    for case in VAL:
        image = sitk.ReadImage(str(truth / f"{case}.nii.gz"))
        labels = sitk.GetArrayFromImage(image)
        labels[generator.random(labels.shape) < errors * generator.uniform(0.8, 1.2)] = 0
        changed = sitk.GetImageFromArray(labels)
        changed.CopyInformation(image)
        sitk.WriteImage(changed, str(folder / f"{case}.nii.gz"))


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, Path]]:
    """LabeledOnly and EntropyMin on 2 labelled cases, validated on 4."""
    workspace = make_workspace(tmp_path_factory.mktemp("comparison"), n_labeled=8, n_unlabeled=1)
    write_json([{"train": TRAIN, "val": VAL}], workspace.dataset_folder / "splits_final.json")
    write_split(workspace.dataset_folder, "few", 0, Split(tuple(TRAIN[:2]), tuple(TRAIN[2:]), tuple(VAL)))
    trained = {}
    with workspace.active():
        for name in ("LabeledOnly", "EntropyMin"):
            trainer = workspace.trainer(f"nnUNetTrainer{name}", SETTINGS)
            trainer.run_training()
            trainer.perform_actual_validation()
            trained[name] = Path(trainer.output_folder)
    return workspace, trained


@pytest.fixture(scope="module")
def module_lab(trainings: tuple[Workspace, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory):
    """The trainings for a comparison that several tests read."""
    workspace, trained = trainings
    copies = tmp_path_factory.mktemp("copies") / DATASET
    copies.mkdir()
    with workspace.active():
        yield Lab(workspace, trained, copies)


@pytest.fixture
def lab(trainings: tuple[Workspace, dict[str, Path]], tmp_path: Path):
    """The trainings, with nnU-Net's variables pointing at them; what a test copies is its own."""
    workspace, trained = trainings
    copies = tmp_path / "results" / DATASET
    copies.mkdir(parents=True)
    with workspace.active():
        yield Lab(workspace, trained, copies)

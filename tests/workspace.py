"""Toy nnU-Net workspaces, made with nnU-Net's own planning and preprocessing, and trainings in them."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

from nnunetv2_semisup.cli.main import main
from nnunetv2_semisup.data.synthetic import make_dataset
from nnunetv2_semisup.methods import trainer_class

DATASET = "Dataset901_Toy"
VARIABLES = ("raw", "preprocessed", "results")
TINY = {"training": {"num_epochs": 3, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "seed": 1}}
"""Settings of a training in which every phase has an epoch: warm-up, ramp, full weight."""


@dataclass(frozen=True)
class Workspace:
    """Three nnU-Net folders below `root`, holding one dataset."""

    root: Path

    @property
    def dataset_folder(self) -> Path:
        """The preprocessed dataset."""
        return self.root / "preprocessed" / DATASET

    @contextmanager
    def active(self, workers: int = 0) -> Iterator[None]:
        """nnU-Net's variables point here; batches are made by `workers` processes, 0: in this one."""
        values = {f"nnUNet_{name}": str(self.root / name) for name in VARIABLES}
        values |= {"nnUNet_n_proc_DA": str(workers), "nnUNet_def_n_proc": "1"}
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def plans(self, name: str = "nnUNetPlans") -> dict[str, Any]:
        """Plans as nnU-Net reads them."""
        return json.loads((self.dataset_folder / f"{name}.json").read_text())

    def trainer(
        self,
        name: str | type,
        settings: dict[str, Any] | None = None,
        *,
        plans_name: str = "run",
        configuration: str = "3d_fullres",
        fold: int | str = 0,
        resume: bool = False,
        plans: dict[str, Any] | None = None,
        device: str = "cpu",
    ) -> Any:
        """A trainer as nnUNetv2_train makes it; `settings` become the plans' semisup section."""
        plans = copy.deepcopy(plans or self.plans())
        plans |= {"plans_name": plans_name, "continue_training": resume}
        if settings is not None:
            plans["semisup"] = settings
        dataset_json = json.loads((self.dataset_folder / "dataset.json").read_text())
        cls = trainer_class(name) if isinstance(name, str) else name
        return cls(plans, configuration, fold, dataset_json, torch.device(device))


def make_workspace(
    root: Path,
    *,
    configurations: tuple[str, ...] = ("3d_fullres",),
    planner: str = "ExperimentPlanner",
    regions: bool = False,
    ignore: bool = False,
    prefix: str = "",
    patch: dict[str, list[int]] | None = None,
    **dataset: Any,
) -> Workspace:
    """Plan and preprocess a synthetic dataset, labelled and unlabelled, with small networks and patches.

    `prefix` stands before the names of all cases.
    """
    options = {"n_labeled": 5, "n_unlabeled": 3, "n_test": 1, "shape": (16, 24, 24), "seed": 3} | dataset
    for name in VARIABLES:
        (root / name).mkdir(parents=True)
    raw = root / "raw" / DATASET
    make_dataset(raw, **options)
    _change_labels(raw, regions, ignore)
    for file in raw.glob("*/*"):
        file.rename(file.with_name(prefix + file.name))
    workspace = Workspace(root)
    plan_and_preprocess(workspace, configurations, planner, patch or {})
    return workspace


def plan_and_preprocess(
    workspace: Workspace,
    configurations: tuple[str, ...] = ("3d_fullres",),
    planner: str = "ExperimentPlanner",
    patch: dict[str, list[int]] | None = None,
) -> None:
    """nnU-Net's planning and preprocessing, with small networks, and ours of the unlabelled and training images."""
    number = int(DATASET[7:10])
    with workspace.active(workers=1):  # nnU-Net's planner cannot plan with 0
        extract_fingerprints([number], num_processes=1, verbose=False, show_progress_bar=False)
        plans_name = plan_experiments([number], planner)
        _shrink(workspace, plans_name, patch or {})
        preprocess([number], configurations=configurations, num_processes=(1,) * len(configurations), verbose=False)
        arguments = ["-d", str(number), "-c", *configurations, "-np", "1", "--training"]
        assert main(["preprocess", *arguments]) == 0


def _change_labels(raw: Path, regions: bool, ignore: bool) -> None:
    description = json.loads((raw / "dataset.json").read_text())
    if regions:
        description["labels"] = {"background": 0, "organs": [1, 2, 3, 4], "tubes": [2, 3], "lesion": 4}
        description["regions_class_order"] = [1, 2, 4]
    if ignore:
        description["labels"]["ignore"] = 5
        for file in sorted((raw / "labelsTr").iterdir())[2:]:
            image = sitk.ReadImage(str(file))
            labels = sitk.GetArrayFromImage(image)
            labels[:, ::3] = 5
            changed = sitk.GetImageFromArray(labels.astype(np.uint8))
            changed.CopyInformation(image)
            sitk.WriteImage(changed, str(file))
    (raw / "dataset.json").write_text(json.dumps(description))


def _shrink(workspace: Workspace, plans_name: str, patch: dict[str, list[int]]) -> None:
    """Few features, three stages, batch 2: seconds instead of minutes."""
    plans = workspace.plans(plans_name)
    for name, configuration in plans["configurations"].items():
        if "architecture" not in configuration:
            continue
        kwargs = configuration["architecture"]["arch_kwargs"]
        stages = min(kwargs["n_stages"], 3)
        for key, value in kwargs.items():
            if isinstance(value, list) and len(value) >= stages - 1:
                kwargs[key] = value[: stages - 1 if key.endswith("_decoder") else stages]
        kwargs["n_stages"] = stages
        kwargs["features_per_stage"] = [4, 8, 12][:stages]
        configuration["batch_size"] = 2
        if name in patch:
            configuration["patch_size"] = patch[name]
    _add_cascade(plans["configurations"])
    plans["plans_name"] = "nnUNetPlans"
    (workspace.dataset_folder / "nnUNetPlans.json").write_text(json.dumps(plans))


def _add_cascade(configurations: dict[str, Any]) -> None:
    """A low resolution and a second stage, which nnU-Net plans for large images only."""
    if "3d_fullres" not in configurations:
        return
    low = copy.deepcopy(configurations["3d_fullres"])
    low["data_identifier"] += "_low"
    low["spacing"] = [1.5 * spacing for spacing in low["spacing"]]
    low["patch_size"] = [max(size // 2, 8) for size in low["patch_size"]]
    configurations["3d_lowres"] = low | {"next_stage": "3d_cascade_fullres"}
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}

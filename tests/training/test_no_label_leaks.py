"""The labels of unlabelled cases are never read: garbage in their place changes nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess

from nnunetv2_semisup.cli.main import main
from nnunetv2_semisup.configuration.sources import merged
from nnunetv2_semisup.methods import methods
from tests.workspace import DATASET, TINY, Workspace, make_workspace, plan_and_preprocess

NUMBER = int(DATASET[7:10])
UNLABELED = ("labeled_002", "labeled_003")
FEW = merged(TINY, {"data": {"split": "few"}})


def trace(workspace: Workspace, trainer_name: str, plans_name: str) -> tuple[list[float], dict[str, Any]]:
    trainer = workspace.trainer(trainer_name, FEW, plans_name=plans_name)
    trainer.run_training()
    weights = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    return trainer.logger.get_value("train_losses", None), weights


def spoil_labels(workspace: Workspace) -> None:
    generator = np.random.default_rng(0)
    for case in UNLABELED:
        file = str(workspace.root / "raw" / DATASET / "labelsTr" / f"{case}.nii.gz")
        image = sitk.ReadImage(file)
        garbage = sitk.GetImageFromArray(generator.integers(0, 5, sitk.GetArrayFromImage(image).shape, dtype=np.uint8))
        garbage.CopyInformation(image)
        sitk.WriteImage(garbage, file)


def test_garbage_in_the_labels_of_unlabelled_cases_changes_nothing(tmp_path):
    workspace = make_workspace(tmp_path)
    val = ["labeled_004"]
    split = {"0": {"labeled": ["labeled_000", "labeled_001"], "unlabeled": list(UNLABELED), "val": val}}
    (workspace.dataset_folder / "splits_few.json").write_text(json.dumps(split))
    with workspace.active():
        before = {name: trace(workspace, name, "before") for name in methods().values()}
    spoil_labels(workspace)
    with workspace.active(workers=1):
        preprocess([NUMBER], configurations=("3d_fullres",), num_processes=(1,), verbose=False)
        arguments = ["-d", str(NUMBER), "-c", "3d_fullres", "-np", "1", "--training", "--overwrite"]
        assert main(["preprocess", *arguments]) == 0
    with workspace.active():
        after = {name: trace(workspace, name, "after") for name in methods().values()}
    for name in methods().values():
        assert after[name][0] == before[name][0]
        assert all(torch.equal(value, before[name][1][key]) for key, value in after[name][1].items())


@pytest.mark.realdata
def test_real_mri(tmp_path, real_data):
    """A training on real left-atrium MRI: four labelled cases, the others of the fold unlabelled."""
    raw = real_data / "Dataset804_LAquarter"
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
    target = tmp_path / "raw" / DATASET
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir(parents=True)
        for file in sorted((raw / folder).iterdir())[:10]:
            os.symlink(file, target / folder / file.name)
    description = json.loads((raw / "dataset.json").read_text()) | {"numTraining": 10}
    (target / "dataset.json").write_text(json.dumps(description))
    workspace = Workspace(tmp_path)
    plan_and_preprocess(workspace)
    with workspace.active():
        assert main(["split", "-d", str(NUMBER), "-f", "0", "--labeled", "4", "--first", "-o", "few"]) == 0
        trainer = workspace.trainer("nnUNetTrainerMIReg", FEW)
        trainer.run_training()
        assert len(trainer.cases.labeled) == len(trainer.cases.unlabeled) == 4
        stored = json.loads((Path(trainer.output_folder).parent / "plans.json").read_text())
        assert stored["semisup"]["data"]["split"] == "few"

"""What is refused before a training touches the disk: one clear line, nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.methods import methods
from nnunetv2_semisup.training import preflight
from tests.workspace import DATASET, Workspace


def refused(
    workspace: Workspace, settings: dict[str, Any] | None = None, name: str = "nnUNetTrainerMIReg", **options: Any
) -> str:
    """The message, after checking that it is one line and that nothing was written."""
    results = workspace.root / "results"
    before = sorted(results.rglob("*"))
    with pytest.raises(SemiSupervisedError) as error:
        workspace.trainer(name, settings, **{"plans_name": "bad", **options})
    assert sorted(results.rglob("*")) == before
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["nnUNet_preprocessed", "nnUNet_results"])
def test_an_unset_variable(in_toy, monkeypatch, name):
    monkeypatch.delenv(name)
    assert f"export {name}=FOLDER" in refused(in_toy)


def test_an_old_nnunet(in_toy, monkeypatch):
    monkeypatch.setattr(preflight, "OLDEST_NNUNET", "99.0")
    assert "pip install 'nnunetv2>=99.0'" in refused(in_toy)


def test_a_results_folder_that_cannot_be_written(in_toy, monkeypatch):
    """/proc takes no file, also from root."""
    monkeypatch.setenv("nnUNet_results", "/proc/nowhere")
    assert "set nnUNet_results to a folder that you may write to" in refused(in_toy)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mi": {"clusters": 1}}, "mi.clusters = 1 is not allowed; allowed is an integer >= 2"),
        ({"mi": {"cluster": 5}}, "unknown setting mi.cluster"),
        ({"mi": {"taps": [0, -2, -9]}}, "mi.taps"),
        ({"mi": {"taps": [0, -2, -2]}}, "mi.taps names a level twice: [0, -2, -2]"),
        ({"mi": {"radius": [1, 1]}}, "mi.radius = [1, 1] is not allowed: the patch has 3 axes"),
        ({"pseudo_label": {"one_piece": [7]}}, "pseudo_label.one_piece = [7] is not allowed for this dataset"),
        ({"method": "entropymin"}, "nnUNetv2_semisup plan -d"),
        ({"data": {"split": "missing"}}, "nnUNetv2_semisup split"),
    ],
)
def test_settings(in_toy, settings, words):
    assert words in refused(in_toy, settings)


def test_embeddings_that_are_larger_than_the_memory(in_toy):
    message = refused(in_toy, {"embedding": {"width": 10**9}}, name="nnUNetTrainerLocalContrast")
    assert "embedding.width = 1000000000 is not allowed" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"1": {"labeled": ["labeled_000"], "unlabeled": [], "val": ["labeled_001"]}}, "fold"),
        ({"0": {"labeled": ["nobody"], "unlabeled": [], "val": ["labeled_001"]}}, "nobody"),
        ({"0": {"labeled": ["labeled_000"], "unlabeled": ["labeled_000"], "val": ["labeled_001"]}}, "labeled_000"),
        ({"0": {"labeled": ["labeled_000"], "unlabeled": ["labeled_001"], "val": ["labeled_001"]}}, "labeled_001"),
    ],
)
def test_split_files(in_toy, content, words):
    (in_toy.dataset_folder / "splits_bad.json").write_text(json.dumps(content))
    assert words in refused(in_toy, {"data": {"split": "bad"}})


def test_data_preprocessed_for_other_plans(in_toy):
    plans = in_toy.plans()
    plans["configurations"]["3d_fullres"]["spacing"] = [9.0, 9.0, 9.0]
    message = refused(in_toy, plans=plans)
    assert "nnUNetv2_semisup preprocess" in message


def test_every_trainer_accepts_training_and_data_settings(in_toy):
    for name in methods().values():
        settings = {"training": {"num_epochs": 7, "initial_lr": 0.005}, "data": {"batch_size": 1}}
        trainer = in_toy.trainer(name, settings, plans_name="accepted")
        trainer.initialize()
        assert trainer.num_epochs == 7
        assert trainer.optimizer.param_groups[0]["lr"] == 0.005
        assert Path(trainer.output_folder).parts[-3] == DATASET


def test_a_pretraining_without_any_term(in_toy):
    weights = {"information": {"weight": 0}, "boundary": {"weight": 0}}
    assert "nothing to learn" in refused(in_toy, weights, name="nnUNetTrainerBIMPretrain")

"""Splits, plans, environment and images: what the commands `split`, `plan` and `preprocess` would have made."""

import os

import pytest

from nnunetv2_semisup.cli.main import main
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.benchmark.commands import plan_command, split_command
from nnunetv2_semisup.evaluation.benchmark.preparation import (
    check_cases,
    environment,
    needs_images,
    preprocess_images,
    write_files,
)
from nnunetv2_semisup.evaluation.benchmark.settings import assignments
from tests.data.copies import copy_of
from tests.evaluation.benchmark.asked import benchmark_in


@pytest.fixture
def workspace(toy, tmp_path):
    workspace = copy_of(toy, tmp_path)
    with workspace.active():
        yield workspace


def written(workspace):
    return {file.name: file.read_text() for file in workspace.dataset_folder.glob("*.json")}


@pytest.mark.fast
@pytest.mark.parametrize("first", [False, True])
def test_files_are_those_of_the_printed_commands(workspace, first):
    benchmark = benchmark_in(workspace.root / "b", labeled=(1, 2), seeds=(0, 5), folds=(0, 1), first=first)
    write_files(benchmark)
    files = written(workspace)
    new = {name for name in files if name.startswith(("splits_labeled", "nnUNetPlans_b_"))}
    assert len(new) == (2 if first else 4) + len({run.plans for run in benchmark.runs})
    write_files(benchmark)
    assert written(workspace) == files
    for name in new:
        (workspace.dataset_folder / name).unlink()
    request = benchmark.request
    for run in benchmark.runs:
        for command in (split_command(request, run), plan_command(request, run, assignments(request, run))):
            assert command is None or main(command[1:]) == 0
    assert written(workspace) == files


@pytest.mark.fast
def test_plans_of_the_same_name_with_other_settings_stop_it(workspace):
    write_files(benchmark_in(workspace.root / "b"))
    with pytest.raises(SemiSupervisedError, match="exists with other settings"):
        write_files(benchmark_in(workspace.root / "elsewhere", settings=("training.num_epochs=9",)))


@pytest.mark.fast
def test_trainings_find_our_trainers_beside_the_users(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", "/mine")
    mine, ours = environment()["nnUNet_extTrainer"].split(os.pathsep)
    assert mine == "/mine"
    assert os.listdir(ours).count("nnunetv2_semisup_trainers.py") == 1
    monkeypatch.setenv("nnUNet_extTrainer", ours)
    assert environment()["nnUNet_extTrainer"] == ours


def test_images_are_preprocessed_once_and_only_where_a_method_needs_them(toy, tmp_path):
    workspace = copy_of(toy, tmp_path, with_unlabeled=False)
    with workspace.active():
        baseline = benchmark_in(tmp_path / "baseline", methods=("labeledonly",))
        write_files(baseline)
        assert not needs_images(baseline)
        benchmark = benchmark_in(tmp_path / "b")
        write_files(benchmark)
        assert needs_images(benchmark)
        with pytest.raises(SemiSupervisedError, match="there is no image-only copy"):
            check_cases(benchmark)
        preprocess_images(benchmark, lambda _: None)
        check_cases(benchmark)
        assert not needs_images(benchmark)
        assert "8 cases made" in benchmark.log("preprocess").read_text()

"""Every reason not to begin a benchmark, found before anything is written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nnunetv2_semisup.configuration.sources import SECTION
from nnunetv2_semisup.data.folders import dataset_option, load_dataset_json, load_plans, read_json, variable_folder
from nnunetv2_semisup.data.folders import resolve_configuration as nnunet_configuration
from nnunetv2_semisup.data.manifest import read_manifest
from nnunetv2_semisup.data.selection import preprocessed_cases
from nnunetv2_semisup.data.splits import labeled_identifiers, stock_fold
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.benchmark.folder import Benchmark, fold_folder
from nnunetv2_semisup.evaluation.benchmark.runs import ALL, Request, Run, runs_of
from nnunetv2_semisup.evaluation.benchmark.settings import (
    check_settings,
    learns_to_segment,
    regularizers_of,
    settings_of,
)
from nnunetv2_semisup.methods import methods
from nnunetv2_semisup.training.preflight import check_support, outline_of


def check_request(request: Request, device: str) -> None:
    """Refuse what cannot be trained.

    Raises:
        SemiSupervisedError: an unknown method, or one that learns no segmentation; something named twice; unknown
            plans or configuration, or one that stock nnU-Net has not preprocessed; a fold or label count that does
            not exist; a setting that is refused; data or a network that a method cannot work on.
    """
    if unknown := [method for method in request.methods if method not in methods()]:
        raise SemiSupervisedError(f"there is no method {unknown[0]!r}; known are: {', '.join(methods())}")
    if silent := [method for method in request.methods if not learns_to_segment(method)]:
        raise SemiSupervisedError(
            f"{silent[0]} learns no segmentation, so there is nothing to compare; leave it out, fine-tune from its "
            "weights with -pretrained_weights and give that run to: nnUNetv2_semisup compare --allow-different "
            "initial_weights"
        )
    for flag in ("methods", "labeled", "folds", "seeds"):
        _refuse_twice(flag, getattr(request, flag))
    dataset_folder = variable_folder("nnUNet_preprocessed") / request.dataset
    plans = load_plans(dataset_folder, request.plans)
    identifier = nnunet_configuration(plans, request.configuration).data_identifier
    preprocessed_cases(dataset_folder, identifier, request.configuration, plans["plans_name"])
    _refuse_counts(request, dataset_folder)
    check_settings(request)
    _refuse_unsupported(request, plans, dataset_folder, device)
    _refuse_lack_of_images(request, dataset_folder, plans)


def check_results(benchmark: Benchmark) -> None:
    """Refuse to take up results that stand under a run's name but were trained with other settings."""
    for run in benchmark.runs:
        file = fold_folder(run).parent / "plans.json"
        if not file.is_file():
            continue
        section = {"method": run.method, **settings_of(benchmark.request, run).model_dump()}
        if read_json(file).get(SECTION) != section:
            raise SemiSupervisedError(
                f"{file.parent} was trained with other settings than {run.name} of this benchmark; "
                "name another folder: -o DIR"
            )


def _refuse_twice(flag: str, values: Sequence[Any]) -> None:
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        raise SemiSupervisedError(f"--{flag} names {twice[0]} twice, so that two runs would have the same name")


def _refuse_counts(request: Request, dataset_folder: Path) -> None:
    raw = variable_folder("nnUNet_raw") / request.dataset
    cases = labeled_identifiers(dataset_folder, raw, load_dataset_json(dataset_folder))
    for fold in request.folds:
        train, _ = stock_fold(dataset_folder, cases, fold)
        for count in request.labeled:
            if isinstance(count, int) and count >= len(train):
                raise SemiSupervisedError(
                    f"--labeled {count}: fold {fold} has {len(train)} training cases; ask for at most "
                    f"{len(train) - 1}, or for all of them: --labeled {ALL}"
                )


def _refuse_unsupported(request: Request, plans: dict[str, Any], dataset_folder: Path, device: str) -> None:
    outline = outline_of(plans, request.configuration, load_dataset_json(dataset_folder))
    for run in _one_a_method(request):
        settings = settings_of(request, run)
        try:
            for regularizer in regularizers_of(run.method):
                check_support(plans, request.configuration, torch.device(device))
                regularizer.check(settings, outline)
        except (SemiSupervisedError, NotImplementedError) as error:
            raise SemiSupervisedError(f"{run.method}: {error}") from None


def _refuse_lack_of_images(request: Request, dataset_folder: Path, plans: dict[str, Any]) -> None:
    """With all labels there are no unlabelled training cases: others are needed."""
    if ALL not in request.labeled or not any(regularizers_of(method) for method in request.methods):
        return
    folder = variable_folder("nnUNet_raw") / request.dataset / "imagesUn"
    identifier = nnunet_configuration(plans, request.configuration).data_identifier
    if (folder.is_dir() and os.listdir(folder)) or read_manifest(dataset_folder, identifier).done("unlabelled"):
        return
    raise SemiSupervisedError(
        f"--labeled {ALL}: then no training case serves as an unlabelled one, and there are no others; put images into "
        f"{folder}, or type: nnUNetv2_semisup preprocess -d {dataset_option(request.dataset)} "
        f"-c {request.configuration} -i FOLDER"
    )


def _one_a_method(request: Request) -> list[Run]:
    return list({run.method: run for run in runs_of(request)}.values())

"""Where nnU-Net keeps a dataset, its plans and its cases; every miss is one line that says what to type."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_semisup.errors import SemiSupervisedError


def variable_folder(variable: str) -> Path:
    """The folder that `nnUNet_raw`, `nnUNet_preprocessed` or `nnUNet_results` names.

    Raises SemiSupervisedError where the variable is unset or names no folder.
    """
    value = os.environ.get(variable)
    if not value:
        raise SemiSupervisedError(f"{variable} is not set; type: export {variable}=FOLDER")
    if not Path(value).is_dir():
        raise SemiSupervisedError(f"{variable} names {value}, which is no folder; type: export {variable}=FOLDER")
    return Path(value)


def find_dataset(dataset: str) -> str:
    """Name of a dataset (Dataset007_Heart) that is given as nnU-Net's -d takes it: its id or its name."""
    preprocessed = variable_folder("nnUNet_preprocessed")
    try:
        name = str(maybe_convert_to_dataset_name(dataset))
    except (RuntimeError, ValueError) as error:
        # nnU-Net's first sentence says what is wrong, the others list what doctor shows.
        what = " ".join(str(error).split()).split(". ")[0]
        raise SemiSupervisedError(f"-d {dataset}: {what}; type: nnUNetv2_semisup doctor") from error
    if not (preprocessed / name).is_dir():
        raise SemiSupervisedError(
            f"{name} is not in {preprocessed}; type: nnUNetv2_plan_and_preprocess -d {dataset_option(name)}"
        )
    return name


def dataset_option(dataset_name: str) -> str:
    """What to type after -d: the id without leading zeros, or the whole name where it holds none."""
    number = dataset_name.removeprefix("Dataset")[:3]
    return str(int(number)) if number.isdecimal() else dataset_name


def load_plans(dataset_folder: Path, plans_name: str) -> dict[str, Any]:
    """The plans PLANS.json of a preprocessed dataset. Raises SemiSupervisedError where there are none."""
    file = dataset_folder / f"{plans_name}.json"
    if not file.is_file():
        raise SemiSupervisedError(
            f"there are no plans {file}; type: nnUNetv2_plan_and_preprocess -d {dataset_option(dataset_folder.name)}, "
            "or name other plans with -p"
        )
    plans: dict[str, Any] = read_json(file)
    return plans


def load_dataset_json(dataset_folder: Path) -> dict[str, Any]:
    """The dataset.json that nnU-Net's planning copied into the preprocessed dataset."""
    file = dataset_folder / "dataset.json"
    if not file.is_file():
        raise SemiSupervisedError(
            f"{file} is missing; type: nnUNetv2_plan_and_preprocess -d {dataset_option(dataset_folder.name)}"
        )
    content: dict[str, Any] = read_json(file)
    return content


def resolve_configuration(plans: dict[str, Any], configuration: str) -> Any:
    """nnU-Net's manager of one configuration. Raises SemiSupervisedError, naming those that the plans have."""
    manager = PlansManager(plans)
    if configuration not in manager.available_configurations:
        raise SemiSupervisedError(
            f"the plans {plans['plans_name']} have no configuration {configuration}; "
            f"choose -c from: {' '.join(manager.available_configurations)}"
        )
    return manager.get_configuration(configuration)


def preprocessed_identifiers(folder: Path) -> set[str]:
    """The cases that stock nnU-Net preprocessed into `folder`; none where it is missing or empty."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return set()
    return set(infer_dataset_class(str(folder)).get_identifiers(str(folder)))


def read_model_file(model_folder: Path, name: str) -> dict[str, Any]:
    """plans.json or dataset.json of a trained model. Raises SemiSupervisedError where the folder is none of a model."""
    if not (model_folder / name).is_file():
        raise SemiSupervisedError(
            f"{model_folder} is no model folder: it holds no {name}; give "
            "-m nnUNet_results/DatasetXXX/TRAINER__PLANS__CONFIGURATION"
        )
    content: dict[str, Any] = read_json(model_folder / name)
    return content


def read_json(file: Path) -> Any:
    """Content of a JSON file. Raises SemiSupervisedError where it is not JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SemiSupervisedError(f"{file} is not valid JSON ({error}); mend or delete it") from error


def write_json(content: Any, file: Path) -> None:
    """Write a JSON file, whole or not at all: see `write_whole`."""
    write_whole(json.dumps(content, indent=1, ensure_ascii=False) + "\n", file)


def write_whole(text: str, file: Path) -> None:
    """Write a file so that it is whole or not there: under another name first, then renamed.

    Raises SemiSupervisedError where the disk is full or the folder cannot be written.
    """
    partial = partial_name(file)
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise cannot_write(file, error) from error


def cannot_write(file: Path, error: OSError) -> SemiSupervisedError:
    """What to raise where a file of a command cannot be written."""
    return SemiSupervisedError(f"cannot write {file} ({error.strerror}); mend that and type the same command again")


def partial_name(file: Path) -> Path:
    """A name beside a file that no other process uses, on this machine or on another that shares the folder."""
    return file.with_name(f"{file.name}.{uuid4().hex}.partial")


@contextmanager
def written_regularly(write: Callable[[], None], seconds: float = 10) -> Iterator[Callable[[], None]]:
    """For a file that grows with every result and is rewritten as a whole.

    Yields what to call after each result: it calls `write` where `seconds` have passed since the last time, so that
    10,000 results do not write 10,000 files. On leaving, by an exception too, `write` is called once more.
    """
    last = monotonic()

    def changed() -> None:
        nonlocal last
        if monotonic() - last >= seconds:
            write()
            last = monotonic()

    try:
        yield changed
    finally:
        write()

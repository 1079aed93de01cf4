"""What there is to preprocess, checked as far as it can be without decoding an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_semisup.data.leakage import equal_content, stamp
from nnunetv2_semisup.data.manifest import Case, Origin
from nnunetv2_semisup.data.raw_cases import Files, find_cases, held_out_cases, holds_images, training_cases
from nnunetv2_semisup.errors import SemiSupervisedError


@dataclass(frozen=True)
class Inventory:
    """The raw cases of one call, for all its configurations."""

    cases: dict[str, Case]
    """By identifier, sorted; status pending, not yet meant for any preprocessing."""
    faults: dict[str, str]
    """Files that are refused, and why."""
    folders: frozenset[str]
    """Those that were searched for unlabelled images."""
    protected: dict[str, Files]
    """Labelled and test images by what to call them: no unlabelled case may equal one."""
    protected_identifiers: dict[str, str]
    """The same, what to call them by identifier."""


def take_inventory(
    raw_folder: Path, dataset_json: Mapping[str, Any], folders: Sequence[Path], training: bool, num_threads: int
) -> Inventory:
    """Find the unlabelled cases and, with `training`, the training cases; refuse what needs no decoding.

    Args:
        raw_folder: the raw dataset; it may be missing where `folders` are given.
        dataset_json: content of the dataset's dataset.json.
        folders: of unlabelled images; where none is given, imagesUn of the raw dataset.
        training: whether to take in image-only copies of the training cases.
        num_threads: for the comparison of files whose sizes meet.

    Raises:
        SemiSupervisedError: a folder that is missing, empty, or holds the training or test images; no training case.
    """
    file_ending = str(dataset_json["file_ending"])
    labeled = training_cases(raw_folder, dataset_json)
    test = held_out_cases(raw_folder, file_ending)
    if training and not labeled:
        raise SemiSupervisedError(f"--training: {raw_folder} holds no training image; set nnUNet_raw to where it does")
    searched = _searched_folders(raw_folder, file_ending, folders, optional=training)
    unlabeled, faults = _find_unlabeled(searched, raw_folder, file_ending)

    names = {identifier: f"the test case {identifier}" for identifier in test}
    names |= {identifier: f"the training case {identifier}" for identifier in labeled}
    protected = {f"the training case {identifier}": files for identifier, files in labeled.items()}
    protected |= {f"the test case {identifier}": files for identifier, files in test.items()}
    num_files = {len(files) for files in protected.values()}
    for identifier, files in list(unlabeled.items()):
        if identifier in names:
            faults[files[0]] = f"it has the identifier of {names[identifier]}; remove or rename the file"
        elif num_files and len(files) not in num_files:
            allowed = " or ".join(map(str, sorted(num_files)))
            faults[files[0]] = f"the case has {len(files)} file(s), the dataset's cases have {allowed}"
        else:
            continue
        del unlabeled[identifier]
    for identifier, equal in equal_content(unlabeled, protected, num_threads).items():
        faults[unlabeled.pop(identifier)[0]] = f"it is, byte by byte, {equal}; remove the file"

    cases = {identifier: _pending(files, "unlabelled") for identifier, files in unlabeled.items()}
    if training:
        cases |= {identifier: _pending(files, "training") for identifier, files in labeled.items()}
    return Inventory(dict(sorted(cases.items())), faults, frozenset(map(str, searched)), protected, names)


def _searched_folders(raw_folder: Path, file_ending: str, folders: Sequence[Path], optional: bool) -> list[Path]:
    """The given folders, or imagesUn, each once; none where that is `optional` and holds no image."""
    default = raw_folder / "imagesUn"
    if folders:
        return list(dict.fromkeys(folder.resolve() for folder in folders))
    return [default.resolve()] if not optional or holds_images(default, file_ending) else []


def _find_unlabeled(
    folders: Iterable[Path], raw_folder: Path, file_ending: str
) -> tuple[dict[str, Files], dict[str, str]]:
    cases: dict[str, Files] = {}
    faults: dict[str, str] = {}
    for folder in folders:
        for name in ("imagesTr", "imagesTs", "labelsTr", "labelsTs"):
            if folder == (raw_folder / name).resolve():
                raise SemiSupervisedError(
                    f"-i {folder}: {name} holds no unlabelled cases"
                    + ("; for image-only copies of the training cases type --training" if name == "imagesTr" else "")
                )
        found, found_faults = find_cases(folder, file_ending)
        faults |= found_faults
        for identifier, files in found.items():
            if identifier in cases:
                faults[files[0]] = f"{cases[identifier][0]} has the same identifier; rename one of them"
            else:
                cases[identifier] = files
    return dict(sorted(cases.items())), faults


def _pending(files: Files, origin: Origin) -> Case:
    size, modified = stamp(files)
    return Case(source=files, origin=origin, size=size, modified=modified, preprocessing_hash="")

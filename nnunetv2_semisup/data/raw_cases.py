"""Raw images by case: which files of a folder belong together, and which fit nowhere."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunetv2_semisup.errors import SemiSupervisedError

Files = tuple[str, ...]
"""The absolute paths of a case's files, in channel order."""


def find_cases(folder: Path, file_ending: str) -> tuple[dict[str, Files], dict[str, str]]:
    """The cases of a folder that is named as nnU-Net names images: CASE_0000ENDING, CASE_0001ENDING, ...

    Returns the files by identifier, and what is wrong by file or case: names without a channel, gaps between channels,
    images with another ending. Files that are no images are passed over, hidden ones too.

    Raises:
        SemiSupervisedError: no such folder, or nothing in it that could be a case.
    """
    if not folder.is_dir():
        raise SemiSupervisedError(f"there is no folder {folder}; put the unlabelled images there, or name it with -i")
    channels: dict[str, dict[int, str]] = {}
    faults: dict[str, str] = {}
    named = re.compile(r"(.+)_(\d{4})" + re.escape(file_ending), re.DOTALL)
    names = (entry.name for entry in os.scandir(folder) if entry.is_file())
    for name in sorted(name for name in names if not name.startswith(".")):
        path = str((folder / name).absolute())
        match = named.fullmatch(name)
        if match and match[1].endswith("_seg"):
            faults[path] = "an identifier that ends in _seg collides with nnU-Net's file names; rename the file"
        elif match:
            channels.setdefault(match[1], {})[int(match[2])] = path
        elif name.endswith(file_ending):
            faults[path] = f"the name must end in a channel, as in CASE_0000{file_ending}; rename the file"
        elif _is_image(name):
            faults[path] = f"the dataset's images end in {file_ending}; convert the file"
    if not channels and not faults:
        raise SemiSupervisedError(
            f"{folder} holds no image; put the unlabelled images there as CASE_0000{file_ending}, "
            "or name another folder with -i"
        )
    cases: dict[str, Files] = {}
    for identifier, files in channels.items():
        if sorted(files) == list(range(len(files))):
            cases[identifier] = tuple(files[channel] for channel in sorted(files))
        else:
            found = ", ".join(f"{channel:04d}" for channel in sorted(files))
            faults[files[min(files)]] = f"channels must be numbered from 0000 without a gap; {identifier} has {found}"
    return cases, faults


def find_labels(folder: Path, file_ending: str) -> dict[str, Path]:
    """The label files of a folder by case, named as nnU-Net names them: CASE<file_ending>.

    Files that are no images are passed over, hidden ones too.

    Raises:
        SemiSupervisedError: no such folder, nothing in it, or images with another ending.
    """
    if not folder.is_dir():
        raise SemiSupervisedError(f"there is no folder {folder}; name the folder of label files with -i")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    cases = {name.removesuffix(file_ending): folder / name for name in names if name.endswith(file_ending)}
    others = [name for name in names if not name.endswith(file_ending) and name.lower().endswith(_image_endings())]
    if others:
        raise SemiSupervisedError(
            f"{folder / others[0]}: the dataset's files end in {file_ending}; convert or remove the file"
        )
    if not cases:
        raise SemiSupervisedError(f"{folder} holds no label file CASE{file_ending}; name another folder with -i")
    return cases


def training_cases(raw_folder: Path, dataset_json: Mapping[str, Any]) -> dict[str, Files]:
    """Images of the labelled cases as nnU-Net finds them; none where the raw dataset is not on this machine."""
    if "dataset" not in dataset_json and not (raw_folder / "imagesTr").is_dir():
        return {}
    # nnU-Net writes absolute paths into what it is given.
    found = get_filenames_of_train_images_and_targets(str(raw_folder), copy.deepcopy(dict(dataset_json)))
    return {str(identifier): tuple(map(str, case["images"])) for identifier, case in found.items()}


def held_out_cases(raw_folder: Path, file_ending: str) -> dict[str, Files]:
    """Images of imagesTs by identifier; none where there is no such folder, or no image in it."""
    folder = raw_folder / "imagesTs"
    return find_cases(folder, file_ending)[0] if holds_images(folder, file_ending) else {}


def holds_images(folder: Path, file_ending: str) -> bool:
    """Whether anything in the folder could be an image; not where there is no such folder."""
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else iter(())
    return any(not name.startswith(".") and (name.endswith(file_ending) or _is_image(name)) for name in names)


def _is_image(name: str) -> bool:
    return name.lower().endswith(_image_endings()) or re.search(r"_\d{4}\.[^.]", name) is not None


def _image_endings() -> tuple[str, ...]:
    return tuple(ending for reader in LIST_OF_IO_CLASSES for ending in reader.supported_file_endings)

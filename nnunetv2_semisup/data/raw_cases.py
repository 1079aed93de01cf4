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

_LINK_TO_NOTHING = "it links to a file that is not there; mount its folder or remove the link"


def find_cases(folder: Path, file_ending: str) -> tuple[dict[str, Files], dict[str, str]]:
    """The cases of a folder that is named as nnU-Net names images: CASE_0000ENDING, CASE_0001ENDING, ...

    Returns the files by identifier, and what is wrong by file or case: names without a channel, gaps between channels,
    images with another ending, links to nothing. Files that are no images are passed over, hidden ones too.

    Raises:
        SemiSupervisedError: no such folder, or nothing in it that could be a case.
    """
    if not folder.is_dir():
        raise SemiSupervisedError(f"there is no folder {folder}; put the unlabelled images there, or name it with -i")
    channels: dict[str, dict[int, str]] = {}
    faults: dict[str, str] = {}
    named = re.compile(r"(.+)_(\d{4})" + re.escape(file_ending), re.DOTALL)
    for name in _file_names(folder):
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
        if lost := [file for file in files.values() if not os.path.exists(file)]:
            faults[lost[0]] = _LINK_TO_NOTHING
        elif sorted(files) == list(range(len(files))):
            cases[identifier] = tuple(files[channel] for channel in sorted(files))
        else:
            found = ", ".join(f"{channel:04d}" for channel in sorted(files))
            faults[files[min(files)]] = f"channels must be numbered from 0000 without a gap; {identifier} has {found}"
    return cases, faults


def find_labels(folder: Path, file_ending: str) -> dict[str, Path]:
    """The label files of a folder by case, named as nnU-Net names them: CASE<file_ending>.

    Files that are no images are passed over, hidden ones too.

    Raises:
        SemiSupervisedError: no such folder, nothing in it, images with another ending, or a link to nothing.
    """
    if not folder.is_dir():
        raise SemiSupervisedError(f"there is no folder {folder}; name the folder of label files with -i")
    names = _file_names(folder)
    cases = {name.removesuffix(file_ending): folder / name for name in names if name.endswith(file_ending)}
    others = [name for name in names if not name.endswith(file_ending) and name.lower().endswith(_image_endings())]
    if others:
        raise SemiSupervisedError(
            f"{folder / others[0]}: the dataset's files end in {file_ending}; convert or remove the file"
        )
    if lost := [file for file in cases.values() if not file.exists()]:
        raise SemiSupervisedError(f"{lost[0]}: {_LINK_TO_NOTHING}")
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


def _file_names(folder: Path) -> list[str]:
    """Names of the files of a folder, sorted, links to nothing among them; hidden ones are passed over."""
    entries = (entry for entry in os.scandir(folder) if not entry.name.startswith("."))
    return sorted(entry.name for entry in entries if entry.is_file() or not os.path.exists(entry))


def _is_image(name: str) -> bool:
    return name.lower().endswith(_image_endings()) or re.search(r"_\d{4}\.[^.]", name) is not None


def _image_endings() -> tuple[str, ...]:
    return tuple(ending for reader in LIST_OF_IO_CLASSES for ending in reader.supported_file_endings)

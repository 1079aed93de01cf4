"""The list of a dataset's unlabelled cases for one set of preprocessed data, and the state of each.

It lies beside the folder of the data, as DATA_IDENTIFIER_unlabeled.json; each part of a job array keeps its own,
DATA_IDENTIFIER_unlabeled_part_I_of_N.json, and reading merges them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_semisup.data.folders import read_json, write_whole
from nnunetv2_semisup.errors import SemiSupervisedError

Part = tuple[int, int]
"""(I, N): the I-th of N jobs, from 1."""

Origin = Literal["unlabelled", "training"]

_FORMAT = 1


@dataclass(frozen=True)
class Case:
    """One unlabelled case, or one image-only copy of a training case."""

    source: tuple[str, ...]
    """Absolute raw files, one a channel or one that holds several."""
    origin: Origin
    size: int
    """Bytes of all raw files together."""
    modified: float
    """Newest modification time of the raw files, in seconds since 1970."""
    preprocessing_hash: str
    """What it was, or is to be, preprocessed for: see `preprocessing_hash`."""
    status: Literal["pending", "done", "refused"] = "pending"
    note: str = ""
    """Why it was refused, or what is unusual about it."""
    content_hash: str = ""
    """Of the bytes of the raw files."""
    voxel_hash: str = ""
    """Of the decoded image, whatever its name, header or compression."""
    spacing: tuple[float, ...] = ()
    """Millimetres along the axes of the decoded image."""
    shape: tuple[int, ...] = ()
    """Of the decoded image: channels, then the spatial axes."""


@dataclass
class Manifest:
    """Cases by identifier. `missing_parts` names the parts of a job array that have not begun."""

    cases: dict[str, Case] = field(default_factory=dict)
    missing_parts: tuple[Part, ...] = ()

    def done(self, origin: Origin) -> list[str]:
        """Identifiers of the finished cases of an origin, sorted."""
        return sorted(key for key, case in self.cases.items() if case.status == "done" and case.origin == origin)


def unlabeled_folder(dataset_folder: Path, data_identifier: str) -> Path:
    """Where the preprocessed unlabelled cases lie: beside the stock folder, which must not see them."""
    return Path(dataset_folder) / f"{data_identifier}_unlabeled"


def manifest_file(dataset_folder: Path, data_identifier: str, part: Part | None = None) -> Path:
    """The manifest of all cases, or of one part of a job array."""
    suffix = "" if part is None else f"_part_{part[0]}_of_{part[1]}"
    return Path(dataset_folder) / f"{data_identifier}_unlabeled{suffix}.json"


def part_files(dataset_folder: Path, data_identifier: str) -> dict[Part, Path]:
    """The manifests of parts that exist."""
    pattern = re.compile(re.escape(f"{data_identifier}_unlabeled_part_") + r"(\d+)_of_(\d+)\.json")
    names = sorted(path.name for path in Path(dataset_folder).iterdir())
    found = [match for name in names if (match := pattern.fullmatch(name))]
    return {(int(match[1]), int(match[2])): Path(dataset_folder) / match[0] for match in found}


def read_manifest(dataset_folder: Path, data_identifier: str) -> Manifest:
    """The merged manifest; an empty one where nothing was preprocessed.

    A part is newer than the whole, which takes the parts in and deletes them whenever it is written. Between parts, a
    finished case counts more than an unfinished one. Raises SemiSupervisedError for a file that is no manifest.
    """
    whole = manifest_file(dataset_folder, data_identifier)
    cases = read_cases(whole) if whole.exists() else {}
    parts = part_files(dataset_folder, data_identifier)
    from_parts: dict[str, Case] = {}
    for file in parts.values():
        for identifier, case in read_cases(file).items():
            if case.status == "done" or from_parts.get(identifier, case).status != "done":
                from_parts[identifier] = case
    totals = {total for _, total in parts}
    missing = [(index, total) for total in totals for index in range(1, total + 1) if (index, total) not in parts]
    return Manifest(cases | from_parts, tuple(sorted(missing)))


def read_cases(file: Path) -> dict[str, Case]:
    """The cases of one manifest file."""
    content = read_json(file)
    try:
        if content["format"] != _FORMAT:
            raise SemiSupervisedError(
                f"{file} was written by another version of nnunetv2_semisup; delete it and "
                "preprocess again with --overwrite"
            )
        return {identifier: case_from_json(record) for identifier, record in content["cases"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise SemiSupervisedError(
            f"{file} is no manifest of unlabelled cases; delete it and preprocess again with --overwrite"
        ) from error


def case_from_json(record: Mapping[str, Any]) -> Case:
    """A case from plain types, as JSON leaves them."""
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
    return Case(**fields)


def write_cases(cases: Mapping[str, Case], file: Path) -> None:
    """Write one manifest file, whole or not at all, with a line for each case."""
    lines = (f"{_to_json(key)}: {_to_json(vars(cases[key]))}" for key in sorted(cases))
    write_whole(f'{{"format": {_FORMAT}, "cases": {{\n' + ",\n".join(lines) + "\n}}\n", file)


def _to_json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)


def preprocessing_hash(plans: dict[str, Any], configuration: str) -> str:
    """Hash of everything in the plans that changes preprocessed voxels.

    Those are the reader, transposition, spacing, resampling of image and mask, normalisation with the fingerprint's
    intensity properties, and the preprocessor. Patch size, batch size and network are not among them.
    """
    manager = PlansManager(plans)
    settings = manager.get_configuration(configuration).configuration
    content = {key: settings[key] for key in _VOXEL_SETTINGS}
    content["image_reader_writer"] = plans["image_reader_writer"]
    content["transpose_forward"] = list(manager.transpose_forward)
    content["intensity_properties"] = manager.foreground_intensity_properties_per_channel
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


_VOXEL_SETTINGS = (
    "preprocessor_name",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
)

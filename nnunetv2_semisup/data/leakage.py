"""Whether an unlabelled case is a labelled, validation or test case under another name.

Three nets, from cheap to dear: the identifier, the bytes of the files, the decoded voxels. The last one also finds a
copy that was compressed, renamed or given another header.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from tqdm import tqdm

from nnunetv2_semisup.data.folders import read_json, write_json, written_regularly
from nnunetv2_semisup.data.raw_cases import Files
from nnunetv2_semisup.data.workers import Workers

_CHUNK = 1 << 20
_PIECE = 1 << 16


def stamp(files: Files) -> tuple[int, float]:
    """Bytes of a case's files together, side-car included, and their newest modification time."""
    states = [os.stat(file) for file in _with_side_car(files)]
    return sum(state.st_size for state in states), max(state.st_mtime for state in states)


def content_hash(files: Files) -> str:
    """Hash of the bytes of a case's files, in channel order, then of a side-car, read in pieces of 1 MiB."""
    digest = hashlib.blake2b(digest_size=16)
    for file in _with_side_car(files):
        digest.update(os.path.getsize(file).to_bytes(8, "little"))
        with open(file, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _with_side_car(files: Files) -> Files:
    """With CASE.json, where nnU-Net finds the spacing of the 3D TIFF CASE_0000.tif, if it is there."""
    stem, ending = os.path.splitext(files[0])
    side_car = f"{stem[: -len('_0000')]}.json"
    is_tiff = ending.lower() in Tiff3DIO.supported_file_endings
    return (*files, side_car) if is_tiff and os.path.isfile(side_car) else files


def voxel_hash(images: npt.NDArray[np.float32]) -> str:
    """Hash of a decoded image [C, *S]: its shape and its values."""
    digest = hashlib.blake2b(repr(images.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(images, dtype=np.float32).data)
    return digest.hexdigest()


def equal_content(cases: Mapping[str, Files], known: Mapping[str, Files], num_threads: int) -> dict[str, str]:
    """Which of `cases` equal one of `known`, or an earlier one of `cases`, byte by byte.

    Returns the name of the equal case by identifier. Cases are told apart by the sizes of their files, then by a few
    pieces of them; what is left is read as a whole.
    """
    entries = [_Entry(name, files, is_new=False) for name, files in known.items()]
    entries += [_Entry(name, files, is_new=True) for name, files in cases.items()]
    groups = [entries]
    with ThreadPoolExecutor(num_threads) as threads:
        for trait in (_sizes, _pieces, content_hash):
            suspects = [entry for group in groups for entry in group]
            traits = threads.map(trait, [entry.files for entry in suspects])
            bar = tqdm(traits, "Comparing files", len(suspects), disable=None, delay=2)
            traits_of = dict(zip(suspects, bar, strict=True))
            groups = [part for group in groups for part in _split(group, traits_of)]
    equal: dict[str, str] = {}
    for group in groups:
        first, *others = group
        name = f"the unlabelled case {first.name}" if first.is_new else first.name
        equal |= {entry.name: name for entry in others if entry.is_new}
    return equal


@dataclass(frozen=True)
class _Entry:
    name: str
    files: Files
    is_new: bool


def _split(group: list[_Entry], traits: Mapping[_Entry, object]) -> list[list[_Entry]]:
    """The parts of a group that share a trait, where a new case is among several."""
    parts = defaultdict(list)
    for entry in group:
        parts[traits[entry]].append(entry)
    return [part for part in parts.values() if len(part) > 1 and any(entry.is_new for entry in part)]


def _sizes(files: Files) -> tuple[int, ...]:
    return tuple(os.path.getsize(file) for file in files)


def _pieces(files: Files) -> str:
    """Hash of the beginning, the middle and the end of each file."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        size = os.path.getsize(file)
        with open(file, "rb") as stream:
            for start in (0, size // 2, size - _PIECE):
                stream.seek(max(0, start))
                digest.update(stream.read(_PIECE))
    return digest.hexdigest()


@dataclass(frozen=True)
class VoxelHasher:
    """Hashes the decoded voxels of a case with one of nnU-Net's readers; empty where it cannot be read."""

    reader: str

    def __call__(self, case: tuple[str, Files]) -> str:
        """Takes (name, files)."""
        try:
            images, _ = recursive_find_reader_writer_by_name(self.reader)().read_images(case[1])
        except Exception:
            return ""
        return voxel_hash(images)


def known_voxels(cases: Mapping[str, Files], reader: str, cache: Path, workers: Workers) -> dict[str, str]:
    """Names of `cases` by the hash of their voxels: see `voxel_hashes`."""
    return {found: name for name, found in voxel_hashes(cases, reader, cache, workers).items()}


def voxel_hashes(cases: Mapping[str, Files], reader: str, cache: Path, workers: Workers) -> dict[str, str]:
    """Hash of the voxels of `cases` by name. Each is read once: the hashes are kept in the file `cache`.

    Killed in the middle, a second call goes on where the first one was. A case that cannot be read is left out, with a
    line on standard error. Where the folder cannot be written nothing is kept.
    """
    kept: dict[str, Any] = read_json(cache) if cache.exists() else {}
    stamps = {name: [reader, *stamp(files)] for name, files in cases.items()}
    missing = [(name, files) for name, files in cases.items() if kept.get(name, {}).get("stamp") != stamps[name]]
    if missing:
        keeps = os.access(cache.parent, os.W_OK)
        with written_regularly(lambda: write_json(kept, cache) if keeps else None) as changed:
            results = workers.run(VoxelHasher(reader), missing)
            for (name, _), found in tqdm(results, "Hashing labelled and test images", len(missing), disable=None):
                if found:
                    kept[name] = {"stamp": stamps[name], "voxel_hash": found}
                    changed()
                else:
                    tqdm.write(f"{name} could not be read: unlabelled copies of it go unnoticed", file=sys.stderr)
    return {name: kept[name]["voxel_hash"] for name in cases if name in kept}

"""One unlabelled case, in a worker process: decoded once, checked, preprocessed by nnU-Net, put in place."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_semisup.data.image_integrity import check_nifti, refuse_non_finite
from nnunetv2_semisup.data.leakage import content_hash, voxel_hash
from nnunetv2_semisup.data.manifest import Case, case_from_json

RECORD = "nnunetv2_semisup"
"""Key of the case's record among the properties that nnU-Net saves with it."""

CONSTANT = "the image is constant"
"""Note of such a case."""

# The last one marks the case as complete: it is put in place last, and removed first.
_SUFFIXES = (".b2nd", "_seg.b2nd", ".pkl")


@dataclass(frozen=True)
class CasePreprocessor:
    """Preprocesses (identifier, pending case) and returns the case as done or refused; never raises.

    A case that is refused, or interrupted, is absent from the folder.
    """

    plans: dict[str, Any]
    configuration: str
    dataset_json: dict[str, Any]
    folder: Path
    """Where finished cases lie."""
    unfinished: Path
    """Where nnU-Net writes: on the same file system, and of this job alone."""
    known_voxels: Mapping[str, str]
    """What to call the labelled and test images, by the hash of their voxels."""
    reuse: bool
    """Whether a complete case that another, killed call left counts as done."""

    def __call__(self, task: tuple[str, Case]) -> Case:
        """Takes (identifier, case)."""
        identifier, case = task
        if self.reuse and (finished := read_finished(self.folder, identifier, case)):
            return finished
        remove_case(identifier, self.folder)
        try:
            return self._preprocess(identifier, case)
        except Exception as error:
            return replace(case, status="refused", note=_one_line(error))
        finally:
            for suffix in _SUFFIXES:
                (self.unfinished / f"{identifier}{suffix}").unlink(missing_ok=True)

    def _preprocess(self, identifier: str, case: Case) -> Case:
        reader = _CheckedReader(self, case)
        plans = _PlansWithReader(self.plans, reader)
        configuration = plans.get_configuration(self.configuration)
        preprocessor = configuration.preprocessor_class(verbose=False)
        preprocessor.run_case_save(
            str(self.unfinished / identifier), list(case.source), None, plans, configuration, self.dataset_json
        )
        put_in_place(identifier, self.unfinished, self.folder)
        return reader.case

    def check(
        self, images: npt.NDArray[np.float32], properties: Mapping[str, Any], case: Case, notes: Sequence[str]
    ) -> Case:
        """The record of a decoded image [C, *S], of which a reader said `notes`.

        Raises where it must not, or cannot, be used.
        """
        num_channels = len(self.dataset_json.get("channel_names") or self.dataset_json["modality"])
        if len(images) != num_channels:
            raise ValueError(f"the image has {len(images)} channel(s), the dataset has {num_channels}")
        if images.shape[1] == 1 and min(self.plans["original_median_shape_after_transp"]) > 1:
            raise ValueError("the image is 2D, the dataset is 3D")
        refuse_non_finite(images)
        voxels = voxel_hash(images)
        if case.origin == "unlabelled" and voxels in self.known_voxels:
            raise ValueError(f"its voxels are those of {self.known_voxels[voxels]}; remove the file")
        return replace(
            case,
            status="done",
            note="; ".join([*notes, *([CONSTANT] if images.min() == images.max() else [])]),
            content_hash=content_hash(case.source),
            voxel_hash=voxels,
            spacing=tuple(float(value) for value in properties["spacing"]),
            shape=tuple(int(value) for value in images.shape),
        )


def put_in_place(identifier: str, unfinished: Path, folder: Path) -> None:
    """Move a preprocessed case to where it is absent yet, so that it is never half there."""
    for suffix in _SUFFIXES:
        os.replace(unfinished / f"{identifier}{suffix}", folder / f"{identifier}{suffix}")


def remove_case(identifier: str, folder: Path) -> None:
    """Delete a preprocessed case, what marks it as complete first."""
    for suffix in reversed(_SUFFIXES):
        (folder / f"{identifier}{suffix}").unlink(missing_ok=True)


def case_files(identifier: str) -> tuple[str, ...]:
    """Names of the files of a preprocessed case."""
    return tuple(f"{identifier}{suffix}" for suffix in _SUFFIXES)


def read_finished(folder: Path, identifier: str, case: Case) -> Case | None:
    """The record of a complete case on disk, where it was made from the same images in the same way."""
    if not all((folder / name).exists() for name in case_files(identifier)):
        return None
    try:
        finished = case_from_json(pickle.loads((folder / f"{identifier}.pkl").read_bytes())[RECORD])
    except Exception:  # Whatever is wrong with it, the case is made again.
        return None
    return finished if is_same(case, finished) else None


def is_same(case: Case, finished: Case) -> bool:
    """Whether a finished case is what `case` asks for: the same images, preprocessed in the same way."""
    return case.preprocessing_hash == finished.preprocessing_hash and has_same_images(case, finished)


def has_same_images(case: Case, finished: Case) -> bool:
    """Whether two cases are of the same images; files that moved, or were touched, are the same if their bytes are."""
    if (case.origin, case.size) != (finished.origin, finished.size):
        return False
    if (case.source, case.modified) == (finished.source, finished.modified):
        return True
    return content_hash(case.source) == finished.content_hash


class _CheckedReader:
    """nnU-Net's reader with our checks behind it, so that an image is decoded once."""

    def __init__(self, job: CasePreprocessor, case: Case) -> None:
        self._reader = PlansManager(job.plans).image_reader_writer_class()
        self._job = job
        self.case = case

    def read_images(self, files: list[str]) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        for file in files:
            check_nifti(file)
        # Readers print what they complain about, which would tear the progress bar.
        with redirect_stdout(StringIO()) as printed:
            images, properties = self._reader.read_images(files)
        complaints = [" ".join(line.split()) for line in printed.getvalue().splitlines() if "WARNING" in line]
        self.case = self._job.check(images, properties, self.case, complaints)
        properties[RECORD] = vars(self.case)
        return images, properties


class _PlansWithReader(PlansManager):  # type: ignore[misc]  # nnU-Net has no types
    """Plans that name a reader of ours."""

    def __init__(self, plans: dict[str, Any], reader: _CheckedReader) -> None:
        super().__init__(plans)
        self._reader = reader

    @property
    def image_reader_writer_class(self) -> Any:
        return lambda: self._reader


def _one_line(error: Exception) -> str:
    """What went wrong, without the places in C++ sources that SimpleITK begins with."""
    message = re.split(r"(?:sitk::|ITK )ERROR:", " ".join(str(error).split()))[-1].strip()
    if message:
        return message
    # nnU-Net's readers print what they complain about and raise a bare RuntimeError.
    return "the files of its channels differ in shape or spacing" if type(error) is RuntimeError else repr(error)

"""Predicted label maps of unlabelled cases, one compressed file each, in the geometry of the preprocessed image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import numpy.typing as npt

UNKNOWN = -1
"""Value of voxels without a pseudo-label."""

_SUFFIX = ".b2nd"


def write_labels(folder: Path, identifier: str, labels: npt.NDArray[Any]) -> None:
    """Store one case's labels [*S], UNKNOWN where there are none: the whole file or none.

    Raises OSError where the disk is full or read-only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{identifier}.part"
    # Compressed in memory: where the disk is full, blosc2 itself does not say so.
    content = blosc2.asarray(np.ascontiguousarray(labels[None], dtype=np.int16)).to_cframe()
    try:
        partial.write_bytes(content)
        os.replace(partial, folder / f"{identifier}{_SUFFIX}")
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def open_labels(folder: Path, identifier: str) -> Any:
    """The labels of one case, [1, *S] int16, on disk until sliced."""
    return blosc2.open(urlpath=str(folder / f"{identifier}{_SUFFIX}"), mode="r")


def without_labels(folder: Path, identifiers: Sequence[str]) -> list[str]:
    """Those of the cases that have no file yet."""
    return [identifier for identifier in identifiers if not (folder / f"{identifier}{_SUFFIX}").exists()]

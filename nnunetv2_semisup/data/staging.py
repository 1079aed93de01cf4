"""A folder or file that appears whole or not at all: made beside its place, then moved there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunetv2_semisup.errors import SemiSupervisedError


def refuse_existing(target: Path) -> None:
    """Raises SemiSupervisedError where the target is a file, or a folder with something in it."""
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise SemiSupervisedError(f"{target} exists already; remove it or give another name with -o")


def refuse_unwritable(target: Path) -> None:
    """Raises SemiSupervisedError where the target has no folder to lie in that may be written."""
    existing = next(parent for parent in target.absolute().parents if parent.exists())
    if not os.access(existing, os.W_OK):
        raise SemiSupervisedError(f"cannot write to {existing}; give another folder with -o")


@contextmanager
def staging_folder(target: Path, errors: tuple[type[Exception], ...] = (OSError,)) -> Iterator[Path]:
    """A folder beside the target that is gone in the end, whatever happens; see `put_in_place`.

    `errors` are what writing raises where the disk is full or the folder cannot be written; they become one
    SemiSupervisedError.
    """
    staging = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        staging.mkdir(parents=True)
        yield staging
    except errors as error:
        raise SemiSupervisedError(f"cannot write {target} ({error}); make room or give another -o") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def put_in_place(staging: Path, target: Path) -> None:
    """Give a finished folder its name. The target may be there, empty."""
    if target.exists():
        target.rmdir()
    os.replace(staging, target)

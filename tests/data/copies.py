"""Copies of the toy workspace that a test may change, and raw images to put into them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tests.workspace import DATASET, Workspace

DATA_IDENTIFIER = "nnUNetPlans_3d_fullres"
UNLABELED = f"{DATA_IDENTIFIER}_unlabeled"


def copy_of(toy: Workspace, root: Path, *, with_unlabeled: bool = True) -> Workspace:
    """The toy dataset, raw and preprocessed, in folders of its own."""
    for name in ("raw", "preprocessed"):
        shutil.copytree(toy.root / name, root / name)
    (root / "results").mkdir()
    workspace = Workspace(root)
    for file in workspace.dataset_folder.glob("splits_*.json"):
        file.unlink()
    if not with_unlabeled:
        shutil.rmtree(workspace.dataset_folder / UNLABELED)
        (workspace.dataset_folder / f"{UNLABELED}.json").unlink()
    return workspace


def raw_folder(workspace: Workspace, name: str = "imagesUn") -> Path:
    """A folder of the raw dataset."""
    return workspace.root / "raw" / DATASET / name


def write_image(file: Path, voxels: np.ndarray, spacing: tuple[float, ...] = (2.5, 2.5, 3.0)) -> None:
    """Write [z, y, x] or [y, x] as float32, spacing along (x, y, z)."""
    image = sitk.GetImageFromArray(voxels.astype(np.float32))
    image.SetSpacing(spacing[: voxels.ndim])
    sitk.WriteImage(image, str(file))


def noise(seed: int, shape: tuple[int, ...] = (8, 12, 12)) -> np.ndarray:
    """A small image without structure."""
    return np.random.default_rng(seed).random(shape)


def snapshot(folder: Path) -> dict[str, int]:
    """Modification times in nanoseconds by file name."""
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}

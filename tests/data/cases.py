"""Small preprocessed cases, as nnU-Net writes them, for the tests of views and loader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

from nnunetv2_semisup.data.dataset import UnlabeledDataset


def write_case(
    folder: Path,
    identifier: str,
    image: npt.NDArray[np.float32],
    nonzero: npt.NDArray[np.int16] | None = None,
    properties: dict[str, object] | None = None,
) -> None:
    """Store image [C, *S] and nonzero mask [1, *S] (default: 0, inside, everywhere)."""
    nonzero = np.zeros((1, *image.shape[1:]), np.int16) if nonzero is None else nonzero
    blocks, chunks = comp_blosc2_params(image.shape, (32, 32, 32))
    nnUNetDatasetBlosc2.save_case(
        image, nonzero, properties or {}, str(folder / identifier), chunks=chunks, blocks=blocks
    )


def coordinate_image(shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """[dims, *shape]: each voxel holds its own position plus 1, so that padding (0) is no position."""
    return np.stack(np.meshgrid(*(np.arange(1, size + 1) for size in shape), indexing="ij")).astype(np.float32)


def coordinate_dataset(folder: Path, shapes: Sequence[Sequence[int]]) -> UnlabeledDataset:
    """Cases case_0, case_1, ... with coordinate images of these shapes."""
    identifiers = [f"case_{index}" for index in range(len(shapes))]
    for identifier, shape in zip(identifiers, shapes, strict=True):
        write_case(folder, identifier, coordinate_image(shape))
    return UnlabeledDataset(folder, identifiers)

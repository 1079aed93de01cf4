"""The worst cases of every method, as slices with the truth's borders on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

from nnunetv2_semisup.data.folders import load_dataset_json, variable_folder
from nnunetv2_semisup.data.raw_cases import training_cases
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.comparison.compare import Comparison
from nnunetv2_semisup.evaluation.comparison.statistics import Result
from nnunetv2_semisup.visualization.overlays import overlay, telling_planes
from nnunetv2_semisup.visualization.page import figure

WORST = 2
"""Cases shown of each method."""


def worst_cases(result: Result) -> list[tuple[str, int]]:
    """Seed and index of the WORST cases of lowest mean Dice, each in its worst seed."""
    dice, seeds = result.values[:, :, 0, 0], list(result.row.seeds)
    return [(seeds[dice[:, case].argmin()], int(case)) for case in dice.min(axis=0).argsort(kind="stable")[:WORST]]


class Drawer:
    """Draws cases of a comparison.

    Images are nnUNet_raw's; where they cannot be read, or do not fit, the background is black.
    """

    def __init__(self, comparison: Comparison) -> None:
        """Look for the images."""
        self._comparison = comparison
        self._reader = recursive_find_reader_writer_by_name(comparison.reader)()
        try:
            raw = variable_folder("nnUNet_raw") / comparison.dataset
            self._images = training_cases(raw, load_dataset_json(comparison.truth.parent))
        except SemiSupervisedError:
            self._images = {}

    def strips(self, result: Result, seed: str, case: int, beside: Result | None) -> list[str]:
        """For each telling plane: the image, the truth, the baseline's and the method's segmentation."""
        name = self._comparison.cases[case]
        truth, properties = self._labels(self._comparison.truth / f"{name}{self._comparison.ending}")
        image = self._image(name, truth)
        shown = {"truth": truth}
        for each in (beside, result):
            if each is not None:
                shown[_caption(each, seed, case)] = self._labels(self._prediction(each, seed, name))[0]
        parts = []
        for plane in telling_planes(truth):
            what = f"{plane.name} slice {plane.index} of {name}"
            pictures = [figure(overlay(image, plane, properties["spacing"]), f"image, {plane.name}", what)]
            for caption, labels in shown.items():
                borders = None if caption == "truth" else truth
                picture = overlay(image, plane, properties["spacing"], filled=labels, outlined=borders)
                pictures.append(figure(picture, caption, f"{caption}, {what}"))
            parts.append(f"<div class='strip'>{''.join(pictures)}</div>")
        return parts

    def _prediction(self, result: Result, seed: str, case: str) -> Path:
        runs = result.row.seeds[_seed_of(result, seed)]
        run = next(run for run in runs if run.training is None or case in run.training.val)
        return run.predictions / f"{case}{self._comparison.ending}"

    def _labels(self, file: Path) -> tuple[npt.NDArray[np.int32], dict[str, Any]]:
        values, properties = self._reader.read_seg(str(file))
        return values[0].astype(np.int32), properties

    def _image(self, case: str, truth: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        black = np.zeros(truth.shape, np.float32)
        if case not in self._images:
            return black
        try:
            values, _ = self._reader.read_images(self._images[case])
        except Exception:  # Readers raise what they like, and a background is worth no comparison.
            return black
        image = np.asarray(values[0], np.float32)
        return image if image.shape == truth.shape else black


def _seed_of(result: Result, seed: str) -> str:
    """The same seed, or the first where a row lacks it."""
    return seed if seed in result.row.seeds else next(iter(result.row.seeds))


def _caption(result: Result, seed: str, case: int) -> str:
    name = _seed_of(result, seed)
    dice = result.values[list(result.row.seeds).index(name), case, 0, 0]
    return f"{result.row.title}{f', seed {name}' if name else ''}: Dice {dice:.3f}"

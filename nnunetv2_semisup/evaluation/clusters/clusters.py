"""From a model and a folder of images to cluster maps, a table and a page: all of it, or nothing."""

from __future__ import annotations

from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tqdm import tqdm

from nnunetv2_semisup.data.folders import variable_folder
from nnunetv2_semisup.data.image_integrity import check_nifti, refuse_non_finite
from nnunetv2_semisup.data.raw_cases import Files, find_cases
from nnunetv2_semisup.data.staging import put_in_place, refuse_existing, refuse_unwritable, staging_folder
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.clusters.model import ClusterModel, load_cluster_model
from nnunetv2_semisup.evaluation.clusters.page import case_part, clusters_page
from nnunetv2_semisup.evaluation.clusters.prediction import ClusterPredictor
from nnunetv2_semisup.evaluation.clusters.purity import Purity, measure, write_csv
from nnunetv2_semisup.visualization.cluster_maps import middle_planes, sheet
from nnunetv2_semisup.visualization.overlays import png

SHOWN = 6
"""Cases on the page at most, those with labels first."""
PAGE = "clusters.html"
TABLE = "purity.csv"
OVERLAYS = "overlays"


@dataclass(frozen=True)
class Written:
    """What was written: the page, and the number of cases, of which some have labels."""

    page: Path
    n_cases: int
    n_labeled: int


def write_clusters(model_folder: Path, fold: str, images: Path, target: Path, device: torch.device) -> Written:
    """Write the cluster maps of all images of a folder, overlays, the page and, where there are labels, the table.

    The first sub-head's maps lie in `target`, those of the others in `target`/sub_head_N. The target appears whole or
    not at all. Raises SemiSupervisedError for a target that exists, a folder that is no model with clusters, images
    that do not fit the model or cannot be read, and where nothing can be written.
    """
    refuse_existing(target)
    refuse_unwritable(target)
    model = load_cluster_model(model_folder, fold)
    cases = _find_images(images, model)
    predictor = ClusterPredictor(model, device)
    for case, files in tqdm(cases.items(), desc="checking", unit=" cases", disable=None):
        _check_image(case, files, predictor.reader, model)
    labels = _find_labels(model, list(cases))
    with staging_folder(target) as staging:
        result = _Result(model, predictor, staging, labels)
        shown = sorted(cases, key=lambda case: case not in labels)[:SHOWN]
        for case, files in tqdm(cases.items(), desc="clusters", unit=" cases", disable=None):
            result.add(case, files, case in shown)
        result.finish(len(cases))
        put_in_place(staging, target)
    return Written(target / PAGE, len(cases), len({row.case for row in result.purities}))


class _Result:
    """The folder while it is made, one case after the other, and what the page will need of them."""

    def __init__(self, model: ClusterModel, predictor: ClusterPredictor, folder: Path, labels: dict[str, Path]) -> None:
        self.purities: list[Purity] = []
        self._model = model
        self._predictor = predictor
        self._folder = folder
        self._labels = labels
        self._parts: list[str] = []
        self._notes: list[str] = []
        self._values = [int(v) for v in PlansManager(model.plans).get_label_manager(model.dataset_json).all_labels]
        (folder / OVERLAYS).mkdir()

    def add(self, case: str, files: Files, on_page: bool) -> None:
        """Predict a case and write what is of this case alone."""
        with redirect_stdout(StringIO()):
            image, properties = self._predictor.reader.read_images(list(files))
        found = self._predictor.predict(image, properties, entropy=on_page)
        labels = self._read_labels(case, image.shape[1:])
        spacing = properties["spacing"]
        for sub_head, clusters in enumerate(found.maps, start=1):
            folder = self._folder if sub_head == 1 else self._folder / f"sub_head_{sub_head}"
            folder.mkdir(exist_ok=True)
            self._predictor.reader.write_seg(clusters, str(folder / f"{case}{self._model.file_ending}"), properties)
            if labels is not None:
                self.purities.append(measure(case, sub_head, clusters, labels, self._model.clusters, self._values))
        planes = middle_planes(image.shape[1:], labels)
        picture = sheet(image[0], found.maps, self._model.clusters, planes, spacing, labels)
        (self._folder / OVERLAYS / f"{case}.png").write_bytes(png(picture))
        if on_page:
            self._parts.append(case_part(case, image, spacing, found, labels))

    def finish(self, n_cases: int) -> None:
        """Write what is of all cases."""
        if self.purities:
            write_csv(self.purities, self._folder / TABLE)
        page = clusters_page(self._model, n_cases, self._parts, self.purities, self._notes)
        (self._folder / PAGE).write_text(page, encoding="utf-8")

    def _read_labels(self, case: str, shape: tuple[int, ...]) -> npt.NDArray[np.int32] | None:
        if case not in self._labels:
            return None
        with redirect_stdout(StringIO()):
            labels = self._predictor.reader.read_seg(str(self._labels[case]))[0][0].astype(np.int32)
        if labels.shape != shape:
            self._notes.append(
                f"{self._labels[case]} has another size than the image {case} ({labels.shape} and {shape}), so it was "
                "left out."
            )
            return None
        return np.asarray(labels)


def _find_images(folder: Path, model: ClusterModel) -> dict[str, Files]:
    cases, faults = find_cases(folder, model.file_ending)
    if faults:
        file, fault = next(iter(faults.items()))
        raise SemiSupervisedError(f"{file}: {fault}" + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""))
    return dict(sorted(cases.items()))


def _check_image(case: str, files: Files, reader: Any, model: ClusterModel) -> None:
    """Raises SemiSupervisedError where an image cannot be read, or is not what the model was trained on."""
    try:
        for file in files:
            check_nifti(file)
        with redirect_stdout(StringIO()) as complaint:
            image, _ = reader.read_images(list(files))
        refuse_non_finite(image)
    except Exception as error:
        reason = " ".join(str(error).split()) or complaint.getvalue().split("\n")[0]
        raise SemiSupervisedError(f"{files[0]} cannot be read: {reason}; restore or remove it") from error
    if len(image) != model.channels:
        raise SemiSupervisedError(
            f"{case} in {Path(files[0]).parent} has {len(image)} channel(s), the model takes {model.channels}; give -i "
            "images of the model's dataset"
        )
    if image.shape[1] == 1 and min(model.plans["original_median_shape_after_transp"]) > 1:
        raise SemiSupervisedError(f"{files[0]} is 2D, the model is of 3D images; give -i images of its dataset")


def _find_labels(model: ClusterModel, cases: list[str]) -> dict[str, Path]:
    """Label files of the model's dataset by case; none where the raw dataset is not on this machine."""
    try:
        raw = variable_folder("nnUNet_raw") / str(model.plans["dataset_name"])
    except SemiSupervisedError:
        return {}
    files = {}
    for case in cases:
        for folder in ("labelsTr", "labelsTs"):
            file = raw / folder / f"{case}{model.file_ending}"
            if case not in files and file.is_file():
                files[case] = file
    return files

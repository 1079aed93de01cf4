"""The raw dataset that the demo trains on: made here, or the user's own with cases held out where needed."""

from __future__ import annotations

import json
import os
import re
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

from nnunetv2_semisup.data.synthetic import make_dataset
from nnunetv2_semisup.errors import SemiSupervisedError

SYNTHETIC_NAME = "Dataset901_SyntheticAbdomen"
SYNTHETIC: dict[str, Any] = {
    "n_labeled": 3,
    "n_unlabeled": 20,
    "n_test": 6,
    "shape": (32, 40, 48),
    "spacing": (6.0, 6.0, 6.0),
    "seed": 0,
}
"""The demo's synthetic patients; see make_dataset."""
_FEWEST_TRAINING_CASES = 2


def dataset_name(source: Path | None) -> str:
    """Name of the demo's dataset: the synthetic one's, or that of the user's folder."""
    if source is None:
        return SYNTHETIC_NAME
    if not re.fullmatch(r"Dataset\d{3}_.+", source.name) or not (source / "dataset.json").is_file():
        raise SemiSupervisedError(
            f"{source} is no raw nnU-Net dataset; name a folder DatasetXXX_NAME with dataset.json, imagesTr, labelsTr"
        )
    return source.name


def configuration_of(source: Path | None) -> str:
    """nnU-Net's configuration to train: 3d_fullres, or 2d where the user's images are 2D."""
    if source is None:
        return "3d_fullres"
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    dataset = json.loads((source / "dataset.json").read_text())
    labeled = _labeled_cases(source, dataset)
    if not labeled:
        raise SemiSupervisedError(f"{source / 'imagesTr'} holds no *{dataset['file_ending']}")
    images, _ = next(iter(labeled.values()))
    reader = determine_reader_writer_from_dataset_json(dataset, str(images[0]), verbose=False)
    voxels, _ = reader().read_images([str(image) for image in images])
    return "2d" if voxels.shape[1] == 1 else "3d_fullres"


def make_demo_dataset(source: Path | None, target: Path) -> str:
    """Make the raw dataset `target` and return one sentence about it.

    Without a source it is synthetic. With one its files are linked, not copied, and the source is not touched. The
    unseen cases are those of imagesTs that have labels in labelsTs; where there is none, a quarter of the labelled
    cases, 2 to 6, the last by name, is held out of the training.

    Raises:
        SemiSupervisedError: the source has no unlabelled image, or too few labelled cases.
    """
    shutil.rmtree(target, ignore_errors=True)
    if source is None:
        make_dataset(target, **SYNTHETIC)
        return (
            f"{SYNTHETIC['n_labeled']} labelled, {SYNTHETIC['n_unlabeled']} unlabelled and {SYNTHETIC['n_test']} "
            "unseen synthetic patients"
        )
    return _link_dataset(source.resolve(), target)


def _link_dataset(source: Path, target: Path) -> str:
    dataset = json.loads((source / "dataset.json").read_text())
    ending = dataset["file_ending"]
    unlabeled = _images_by_case(source / "imagesUn", ending)
    if not unlabeled:
        raise SemiSupervisedError(f"{source / 'imagesUn'} holds no *{ending}; put the unlabelled images there")
    labeled = _labeled_cases(source, dataset)
    unseen = {
        case: (images, source / "labelsTs" / f"{case}{ending}")
        for case, images in _images_by_case(source / "imagesTs", ending).items()
        if (source / "labelsTs" / f"{case}{ending}").is_file()
    }
    sentence = f"{len(unseen)} unseen cases from imagesTs"
    if not unseen:
        held_out = sorted(labeled)[-min(6, max(2, len(labeled) // 4)) :]
        unseen = {case: labeled.pop(case) for case in held_out}
        sentence = f"no imagesTs with labelsTs, so {len(unseen)} labelled cases are held out: {', '.join(held_out)}"
    if len(labeled) < _FEWEST_TRAINING_CASES:
        raise SemiSupervisedError(
            f"{source} leaves {len(labeled)} labelled cases to train on; the demo needs at least "
            f"{_FEWEST_TRAINING_CASES}, and {_FEWEST_TRAINING_CASES + 2} where imagesTs has no labelsTs"
        )
    for group, cases in (("Tr", labeled), ("Ts", unseen)):
        for case, (images, label) in cases.items():
            _link_images(images, target / f"images{group}", case, ending)
            _link(label, target / f"labels{group}" / f"{case}{ending}")
    for image in chain.from_iterable(unlabeled.values()):
        _link(image, target / "imagesUn" / image.name)  # under its own channel's number
    dataset = {key: value for key, value in dataset.items() if key != "dataset"} | {"numTraining": len(labeled)}
    (target / "dataset.json").write_text(json.dumps(dataset, indent=4))
    return f"{len(labeled)} labelled and {len(unlabeled)} unlabelled cases of {source}; {sentence}"


def _labeled_cases(source: Path, dataset: dict[str, Any]) -> dict[str, tuple[list[Path], Path]]:
    """Case -> its images and its label, as nnU-Net finds them."""
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    found = get_filenames_of_train_images_and_targets(str(source), dataset)
    return {case: ([Path(i) for i in files["images"]], Path(files["label"])) for case, files in found.items()}


def _images_by_case(folder: Path, ending: str) -> dict[str, list[Path]]:
    """Case -> its images, one a channel, by nnU-Net's naming."""
    cases: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"*{ending}")):
        cases.setdefault(path.name.removesuffix(ending)[: -len("_0000")], []).append(path)
    return cases


def _link_images(images: list[Path], folder: Path, case: str, ending: str) -> None:
    for channel, image in enumerate(images):
        _link(image, folder / f"{case}_{channel:04d}{ending}")


def _link(file: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(file.resolve(), link)

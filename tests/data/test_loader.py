from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_semisup.data.dataset import UnlabeledDataset
from nnunetv2_semisup.data.loader import UnlabeledLoader, stop_loader
from nnunetv2_semisup.data.random_streams import RandomStreams
from nnunetv2_semisup.data.views import View, ViewTransforms, split_transforms
from tests.data.cases import coordinate_dataset, coordinate_image, write_case

pytestmark = pytest.mark.fast

STILL = ViewTransforms()
PATCH = (10, 12, 14)


def stock_transforms(patch: tuple[int, ...] = PATCH) -> ViewTransforms:
    return split_transforms(
        nnUNetTrainer.get_training_transforms(patch, (-0.5, 0.5), None, tuple(range(len(patch))), False)
    )


def augmented_loader(
    dataset: UnlabeledDataset, seed: int | None = 0, kinds: tuple[View, ...] = ("stock", "stock")
) -> UnlabeledLoader:
    initial = tuple(size + 6 for size in PATCH)
    return UnlabeledLoader(dataset, 2, initial, PATCH, stock_transforms(), kinds, RandomStreams(seed))


def crop_loader(dataset: UnlabeledDataset, patch: tuple[int, ...], batch_size: int = 1) -> UnlabeledLoader:
    return UnlabeledLoader(dataset, batch_size, patch, patch, STILL, ("stock",), RandomStreams(0))


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return (
        first["keys"] == second["keys"]
        and torch.equal(first["valid"], second["valid"])
        and all(torch.equal(a, b) for a, b in zip(first["views"], second["views"], strict=True))
    )


@pytest.fixture(name="dataset")
def _dataset(tmp_path: Path) -> UnlabeledDataset:
    """Three coordinate cases; the last is smaller than the patch."""
    return coordinate_dataset(tmp_path, [(20, 24, 22), (16, 16, 30), (6, 11, 9)])


@pytest.fixture(name="started")
def _started() -> Iterator[list[Any]]:
    """Whatever a test puts here is stopped, also when the test fails."""
    augmenters: list[Any] = []
    yield augmenters
    for augmenter in augmenters:
        stop_loader(augmenter)


def test_a_batch_has_the_promised_shape(dataset: UnlabeledDataset) -> None:
    batch = next(augmented_loader(dataset, kinds=("plain", "stock", "strong")))
    assert [tuple(view.shape) for view in batch["views"]] == [(2, 3, *PATCH)] * 3
    assert {view.dtype for view in batch["views"]} == {torch.float32}
    assert batch["valid"].shape == (2, 1, *PATCH)
    assert batch["valid"].dtype == torch.bool
    assert all(type(key) is str and key in dataset.identifiers for key in batch["keys"])


def test_a_2d_configuration_sees_random_slices_of_the_nonzero_region(tmp_path: Path) -> None:
    nonzero = np.full((1, 9, 16, 18), -1, np.int16)
    nonzero[:, 2:7] = 0
    write_case(tmp_path, "case", coordinate_image((9, 16, 18)), nonzero)
    loader = UnlabeledLoader(
        UnlabeledDataset(tmp_path, ["case"]),
        2,
        (16, 18),
        (12, 14),
        stock_transforms((12, 14)),
        ("stock", "stock"),
        RandomStreams(0),
    )
    batch = next(loader)
    assert [tuple(view.shape) for view in batch["views"]] == [(2, 3, 12, 14)] * 2
    assert batch["valid"].shape == (2, 1, 12, 14)
    loader.transforms = STILL
    slices = [int(next(loader)["views"][0][0, 0].max()) - 1 for _ in range(30)]
    assert set(slices) == {2, 3, 4, 5, 6}


def test_a_2d_image_works(tmp_path: Path) -> None:
    write_case(tmp_path, "png", coordinate_image((1, 16, 18)))
    batch = next(crop_loader(UnlabeledDataset(tmp_path, ["png"]), (8, 8)))
    assert batch["views"][0].shape == (1, 3, 8, 8)
    assert batch["valid"].all()


def test_crops_are_uniform_inside_the_nonzero_box(tmp_path: Path) -> None:
    nonzero = np.full((1, 12, 13, 9), -1, np.int16)
    nonzero[:, 2:12, 3:11, 1:8] = 0
    write_case(tmp_path, "case", coordinate_image((12, 13, 9)), nonzero)
    loader = crop_loader(UnlabeledDataset(tmp_path, ["case"]), (8, 8, 4), batch_size=100)
    views = torch.cat([next(loader)["views"][0] for _ in range(3)])
    corners = views[:, :, 0, 0, 0].long() - 1
    for axis, allowed in enumerate([(2, 3, 4), (3,), (1, 2, 3, 4)]):
        found, counts = corners[:, axis].unique(return_counts=True)
        assert tuple(found.tolist()) == allowed
        # 5 standard deviations of 300 draws
        assert (counts - 300 / len(allowed)).abs().max() < 5 * np.sqrt(300 / len(allowed))


@pytest.mark.parametrize(
    ("low", "high", "allowed"), [(3, 6, {0, 1, 2, 3}), (0, 2, {0}), (9, 11, {3}), (5, 7, {0, 1, 2, 3})]
)
def test_a_patch_larger_than_the_box_covers_it_and_stays_in_the_image(
    tmp_path: Path, low: int, high: int, allowed: set[int]
) -> None:
    nonzero = np.full((1, 11, 8, 8), -1, np.int16)
    nonzero[:, low:high] = 0
    write_case(tmp_path, "case", coordinate_image((11, 8, 8)), nonzero)
    loader = crop_loader(UnlabeledDataset(tmp_path, ["case"]), (8, 8, 8))
    batches = [next(loader) for _ in range(30)]
    assert {int(batch["views"][0][0, 0, 0, 0, 0]) - 1 for batch in batches} == allowed
    assert all(batch["valid"].all() for batch in batches)


@pytest.mark.parametrize("shape", [(5, 12, 9), (4, 4, 4), (8, 7, 20)])
def test_an_image_smaller_than_the_patch_is_centred_padded_and_masked(tmp_path: Path, shape: tuple[int, ...]) -> None:
    batch = next(crop_loader(coordinate_dataset(tmp_path, [shape]), (8, 8, 8)))
    view, valid = batch["views"][0][0], batch["valid"][0, 0]
    assert torch.equal(valid, (view > 0).all(0))
    assert torch.equal(~valid, (view == 0).all(0))
    for axis, size in enumerate(shape):
        lines = valid.movedim(axis, 0).flatten(1).any(1).nonzero().flatten()
        start = -((size - 8) // 2) if size < 8 else 0
        assert lines.tolist() == list(range(start, start + min(size, 8)))


@pytest.mark.parametrize("initial", [(8, 9, 10), (12, 12, 12), (11, 13, 15)])
def test_the_final_patch_stays_in_the_image_whatever_the_margin(tmp_path: Path, initial: tuple[int, ...]) -> None:
    final = (8, 9, 7)
    dataset = coordinate_dataset(tmp_path, [(10, 9, 16)])
    middle = ViewTransforms([SpatialTransform(final, 0, random_crop=False)])
    loader = UnlabeledLoader(dataset, 30, initial, final, middle, ("stock",), RandomStreams(0))
    batches = [next(loader) for _ in range(4)]
    assert all(batch["valid"].all() for batch in batches)
    corners = torch.cat([batch["views"][0][:, :, 0, 0, 0] for batch in batches]).long() - 1
    assert [set(axis.tolist()) for axis in corners.T] == [{0, 1, 2}, {0}, set(range(10))]


def test_a_constant_image_with_an_empty_nonzero_mask_works(tmp_path: Path) -> None:
    write_case(tmp_path, "empty", np.zeros((1, 9, 9, 9), np.float32), np.full((1, 9, 9, 9), -1, np.int16))
    loader = augmented_loader(UnlabeledDataset(tmp_path, ["empty"]))
    for _ in range(10):
        assert all(torch.isfinite(view).all() for view in next(loader)["views"])


def test_every_case_is_drawn(dataset: UnlabeledDataset) -> None:
    loader = crop_loader(dataset, (4, 4, 4), batch_size=20)
    assert set(next(loader)["keys"]) == set(dataset.identifiers)


def test_the_seed_alone_decides(dataset: UnlabeledDataset) -> None:
    first, second, other = augmented_loader(dataset, 3), augmented_loader(dataset, 3), augmented_loader(dataset, 4)
    np.random.seed(1)
    batches = [next(first) for _ in range(4)]
    np.random.seed(2)
    torch.manual_seed(2)
    assert all(equal(batch, next(second)) for batch in batches)
    assert not all(equal(batch, next(other)) for batch in batches)


def test_a_resumed_loader_goes_on_where_it_stopped(dataset: UnlabeledDataset) -> None:
    straight = augmented_loader(dataset, 3)
    for _ in range(3):
        next(straight)
    state = pickle.loads(pickle.dumps(straight.streams.state_dict()))
    expected = [next(straight) for _ in range(3)]
    resumed = augmented_loader(dataset, 99)
    resumed.streams.load_state_dict(state)
    assert all(equal(batch, next(resumed)) for batch in expected)


def labeled_batches(folder: Path, between: Any) -> list[dict[str, Any]]:
    """Five batches of nnU-Net's own loader with its own augmentation, and something else before each of them."""
    transform = nnUNetTrainer.get_training_transforms(PATCH, (-0.5, 0.5), None, (0, 1, 2), False)
    for step in transform.transforms:
        if isinstance(step, RandomTransform) and isinstance(step.transform, GaussianBlurTransform):
            # Its choice between convolution and FFT by timing would differ between the runs.
            step.transform.benchmark = False
    loader = nnUNetDataLoader(
        nnUNetDatasetBlosc2(str(folder)), 2, [16, 18, 20], PATCH, LabelManager({"background": 0, "a": 1}, None), 0.33,
        transforms=transform,
    )  # fmt: skip
    augmenter = SingleThreadedAugmenter(loader, None)
    np.random.seed(0)
    torch.manual_seed(0)
    batches = []
    for _ in range(5):
        between()
        batches.append(next(augmenter))
    return batches


def test_labelled_batches_do_not_notice_unlabelled_ones(dataset: UnlabeledDataset, tmp_path: Path) -> None:
    labeled = tmp_path / "labeled"
    labeled.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        foreground = {"class_locations": {1: np.array([[0, 9, 9, 9], [0, 3, 4, 5]])}}
        image = rng.normal(size=(1, 18, 20, 22)).astype(np.float32)
        write_case(labeled, f"l{index}", image, rng.integers(0, 2, (1, 18, 20, 22)).astype(np.int16), foreground)
    ours = augmented_loader(dataset)
    alone = labeled_batches(labeled, lambda: None)
    together = labeled_batches(labeled, lambda: next(ours))
    for first, second in zip(alone, together, strict=True):
        assert list(first["keys"]) == list(second["keys"])
        assert torch.equal(first["data"], second["data"])
        assert torch.equal(first["target"], second["target"])

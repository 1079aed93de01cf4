from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform, SegOnlyTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import OneOfTransform, RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import (
    nnUNetTrainerDA5,
    nnUNetTrainerDA5ord0,
    nnUNetTrainerDA5Segord0,
)
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDAOrd0 import nnUNetTrainer_DASegOrd0
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
    nnUNetTrainer_onlyMirror01_DASegOrd0,
)

from nnunetv2_semisup.data.random_streams import RandomStreams
from nnunetv2_semisup.data.views import ViewTransforms, make_views, split_transforms
from nnunetv2_semisup.errors import SemiSupervisedError
from tests.data.cases import coordinate_image

pytestmark = pytest.mark.fast

# nnU-Net's own DA5 needs 6 voxels along every axis.
PATCHES = {"2d": (24, 20), "3d": (12, 20, 20), "dummy2d": (6, 20, 20)}
TRAINERS = [
    nnUNetTrainer,
    nnUNetTrainerDA5,
    nnUNetTrainerDA5ord0,
    nnUNetTrainerDA5Segord0,
    nnUNetTrainerNoDA,
    nnUNetTrainer_DASegOrd0,
    nnUNetTrainer_onlyMirror01_DASegOrd0,
]
# What nnU-Net's pipelines do to the labels alone; everything else must land in one of the three parts.
LABEL_ONLY = {"RemoveLabelTransform", "ConvertSegmentationToRegionsTransform", "DownsampleSegForDSTransform"}


class AddOffset(ImageOnlyTransform):
    """Adds one number to each channel: what distinguishes two views, and nothing else."""

    def get_parameters(self, **sample: Any) -> dict[str, Any]:
        return {"offset": torch.randint(1000, (sample["image"].shape[0],)).float()}

    def _apply_to_image(self, img: torch.Tensor, **params: Any) -> torch.Tensor:
        img += params["offset"].reshape(-1, *[1] * (img.ndim - 1))
        return img


class Unheard(BasicTransform):
    """A transform of a kind that nobody declared."""


def pipeline(trainer: type[nnUNetTrainer], kind: str, masked: Sequence[bool] | None = None) -> BasicTransform:
    patch = PATCHES[kind]
    return trainer.get_training_transforms(
        patch_size=patch,
        rotation_for_DA=(-0.6, 0.6),
        deep_supervision_scales=[[1.0] * len(patch), [0.5] * len(patch)],
        mirror_axes=tuple(range(len(patch))),
        do_dummy_2d_data_aug=kind == "dummy2d",
        use_mask_for_norm=masked,
        regions=[(1, 2), (2,)],
        ignore_label=3,
    )


def initial_size(trainer: type[nnUNetTrainer], kind: str) -> tuple[int, ...]:
    """The crop before the geometry: larger than the patch where a SpatialTransform cuts the patch out."""
    patch = PATCHES[kind]
    if trainer is nnUNetTrainerNoDA:
        return patch
    return (patch[0], *(size + 9 for size in patch[1:])) if kind == "dummy2d" else tuple(size + 9 for size in patch)


def leaves(transform: BasicTransform) -> list[BasicTransform]:
    """What lies inside the wrappers, in order."""
    if isinstance(transform, RandomTransform):
        return leaves(transform.transform)
    inner = getattr(transform, "transforms", None) or getattr(transform, "list_of_transforms", None)
    return [leaf for held in inner for leaf in leaves(held)] if inner else [transform]


def names(transforms: Sequence[BasicTransform]) -> list[str]:
    return [type(leaf).__name__ for transform in transforms for leaf in leaves(transform)]


def padded_crop(size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A coordinate image, its nonzero mask and its validity mask; the first third of each axis is padding (0)."""
    image = torch.from_numpy(coordinate_image(size))
    valid = torch.zeros(1, *size, dtype=torch.bool)
    valid[(slice(None), *(slice(extent // 3, None) for extent in size))] = True
    nonzero = torch.where(valid, 0, -1).to(torch.int16)
    return torch.where(valid, image, 0), nonzero, valid


@pytest.mark.parametrize("kind", PATCHES)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_stock_transform_finds_its_place(trainer: type[nnUNetTrainer], kind: str) -> None:
    transform = pipeline(trainer, kind, masked=[True])
    parts = split_transforms(transform)
    sorted_out = names([*parts.geometry, *parts.intensity, *parts.masking])
    assert sorted(sorted_out) == sorted(name for name in names([transform]) if name not in LABEL_ONLY)
    no_augmentation = trainer is nnUNetTrainerNoDA
    assert names(parts.masking) == ([] if no_augmentation else ["MaskImageTransform"])
    geometry = ["SpatialTransform"]
    if kind == "dummy2d":
        geometry = ["Convert3DTo2DTransform", *geometry, "Convert2DTo3DTransform"]
    if issubclass(trainer, nnUNetTrainerDA5):
        geometry += ["Rot90Transform", "TransposeAxesTransform"] if kind != "2d" else []
    assert names(parts.geometry) == ([] if no_augmentation else [*geometry, "MirrorTransform"])


def test_kinds_differ_in_how_often_a_random_intensity_step_is_taken() -> None:
    rare, sure = RandomTransform(AddOffset(), 0.1), RandomTransform(AddOffset(), 0.9)
    parts = split_transforms(ComposeTransforms([rare, sure]))
    assert [step.apply_probability for step in parts.intensity] == [0.1, 0.9]
    assert [step.apply_probability for step in parts.strong] == [0.5, 0.9]
    assert rare.apply_probability == 0.1
    image = torch.zeros(1, 4, 4, 4)
    arguments = image, image.short(), torch.ones_like(image, dtype=torch.bool), parts
    changed = {"plain": 0, "stock": 0, "strong": 0}
    with RandomStreams(0).active():
        for _ in range(200):
            views, _, _ = make_views(*arguments, list(changed))
            for kind, view in zip(changed, views, strict=True):
                changed[kind] += bool(view.any())
    # 200 draws of which 1 - 0.9 * 0.1 = 0.91 and 1 - 0.5 * 0.1 = 0.95 change something
    assert changed["plain"] == 0
    assert 165 < changed["stock"] < changed["strong"] <= 200


@pytest.mark.parametrize("kind", PATCHES)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_views_share_their_voxels_and_the_mask_marks_all_padding(trainer: type[nnUNetTrainer], kind: str) -> None:
    parts = split_transforms(pipeline(trainer, kind))
    offsets = ViewTransforms(parts.geometry, [AddOffset()])
    size = initial_size(trainer, kind)
    moved = False
    streams = RandomStreams(0)
    for _ in range(30):
        image, nonzero, crop_valid = padded_crop(size)
        # A last channel of ones shows, by going through the image path, how much of a voxel is real.
        image = torch.cat([image, crop_valid.float()])
        before = image.clone()
        with streams.active():
            plain, valid, _ = make_views(image, nonzero, crop_valid, ViewTransforms(parts.geometry), ["stock"])
        with streams.active():
            views, mask, _ = make_views(image, nonzero, crop_valid, offsets, ["stock"] * 3)
        assert torch.equal(image, before)
        assert valid.shape == mask.shape == (1, *PATCHES[kind])
        assert valid.dtype == mask.dtype == torch.bool
        for view in views:
            assert view.shape == (len(size) + 1, *PATCHES[kind])
            offset = (view - views[0]).flatten(1)
            # float32 keeps sums below 1,100 to 1e-4
            assert (offset.amax(1) - offset.amin(1)).max() < 1e-3
        assert len({float(view.sum()) for view in views}) == 3
        real = plain[0][-1:]
        assert torch.equal(valid, real > 0.999)
        positions = plain[0][:-1]
        for axis, extent in enumerate(size):
            inside = positions[axis][valid[0]]
            assert inside.min() >= (extent // 3 + 1) * 0.999
            assert inside.max() <= extent + 1e-3
        moved = moved or not torch.equal(plain[0], image)
    assert moved or trainer is nnUNetTrainerNoDA


def test_without_movement_the_mask_is_the_crops_own_to_the_voxel() -> None:
    image, nonzero, valid = padded_crop((11, 14))
    still = SpatialTransform((6, 10), 0, random_crop=False)
    (view,), mask, _ = make_views(image, nonzero, valid, ViewTransforms([still]), ["stock"])
    assert torch.equal(mask, valid[:, 2:8, 2:12])
    assert 0 < mask.sum() < mask.numel()
    assert torch.equal(view, image[:, 2:8, 2:12])


def test_a_rotation_that_looks_past_the_crop_is_masked_there() -> None:
    ones = torch.ones(1, 16, 16)
    turn = SpatialTransform((16, 16), 0, random_crop=False, p_rotation=1, rotation=np.pi / 4)
    (view,), mask, _ = make_views(ones, ones.short() * 0, ones.bool(), ViewTransforms([turn]), ["stock"])
    # A square turned by 45 degrees keeps an octagon: its corners are outside, the middles of its edges are not.
    assert not mask[0, [0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert mask[0, 8, 1:-1].all()
    assert torch.equal(mask, view > 0.999)


@pytest.mark.parametrize("kind", PATCHES)
def test_channels_normalised_inside_the_nonzero_region_are_zero_outside_of_it(kind: str) -> None:
    parts = split_transforms(pipeline(nnUNetTrainer, kind, masked=[True, False]))
    parts.intensity = [AddOffset()]
    streams = RandomStreams(0)
    size = initial_size(nnUNetTrainer, kind)
    for _ in range(10):
        _, nonzero, valid = padded_crop(size)
        image = torch.full((2, *size), 5.0)
        with streams.active():
            views, mask, _ = make_views(image, nonzero, torch.ones_like(valid), parts, ["stock", "stock"])
        outside = [view[0] == 0 for view in views]
        assert torch.equal(*outside)
        assert outside[0].any()
        for view in views:
            # the offset is the same in a channel, so where it was not masked the channel is constant
            assert len(torch.unique(view[0][~outside[0] & mask[0]])) == 1
            assert (view[1] != 0).all()


@pytest.mark.parametrize("trainer", [nnUNetTrainer, nnUNetTrainerDA5])
@pytest.mark.parametrize("kind", PATCHES)
def test_a_constant_image_gives_finite_views(trainer: type[nnUNetTrainer], kind: str) -> None:
    parts = split_transforms(pipeline(trainer, kind))
    streams = RandomStreams(0)
    size = initial_size(trainer, kind)
    for value in (0.0, 3.0):
        image = torch.full((2, *size), value)
        ones = torch.ones(1, *size)
        with streams.active():
            for _ in range(25):
                views, _, _ = make_views(image, ones.short() * 0, ones.bool(), parts, ["stock", "stock"])
                assert all(torch.isfinite(view).all() for view in views)


def test_what_transforms_remember_is_not_shared_with_the_labelled_pipeline() -> None:
    transform = pipeline(nnUNetTrainer, "3d")
    parts = split_transforms(transform)
    ours = {id(part) for part in (*parts.geometry, *parts.intensity)}
    assert not ours & {id(step) for step in transform.transforms}


@pytest.mark.parametrize("trainer", [nnUNetTrainer, nnUNetTrainerDA5])
def test_no_view_depends_on_which_blur_was_faster(trainer: type[nnUNetTrainer]) -> None:
    transform = pipeline(trainer, "3d")
    blurs = [step for step in leaves(transform) if isinstance(step, GaussianBlurTransform)]
    blurs[0].benchmark = True
    ours = [step for part in split_transforms(transform).intensity for step in leaves(part)]
    assert [step.benchmark for step in ours if isinstance(step, GaussianBlurTransform)] == [False]
    assert blurs[0].benchmark


def test_label_only_transforms_are_dropped_inside_wrappers_too() -> None:
    parts = split_transforms(
        ComposeTransforms([ComposeTransforms([RandomTransform(RemoveLabelTransform(-1, 0), 0.5), AddOffset()])])
    )
    assert names(parts.intensity) == ["AddOffset"]
    assert not parts.geometry
    assert not parts.masking


def test_a_subclass_by_a_user_goes_where_its_base_class_goes() -> None:
    class OwnSpatial(SpatialTransform):
        pass

    class OwnLabels(SegOnlyTransform):
        pass

    parts = split_transforms(ComposeTransforms([OwnSpatial((4, 4), 0, False), OwnLabels(), AddOffset()]))
    assert names(parts.geometry) == ["OwnSpatial"]
    assert names(parts.intensity) == ["AddOffset"]


@pytest.mark.parametrize(
    "wrap",
    [lambda t: t, lambda t: RandomTransform(t, 0.5), lambda t: OneOfTransform([t]), lambda t: ComposeTransforms([t])],
)
def test_an_unknown_transform_is_named(wrap: Any) -> None:
    with pytest.raises(SemiSupervisedError, match="Unheard"):
        split_transforms(ComposeTransforms([MirrorTransform((0,)), wrap(Unheard())]))


def test_one_random_choice_between_kinds_cannot_be_taken_apart() -> None:
    noise = GaussianNoiseTransform()
    with pytest.raises(SemiSupervisedError, match=r"OneOfTransform.*MirrorTransform, GaussianNoiseTransform"):
        split_transforms(OneOfTransform([MirrorTransform((0,)), noise]))
    with pytest.raises(SemiSupervisedError, match=r"ComposeTransforms.*MaskImageTransform"):
        split_transforms(RandomTransform(ComposeTransforms([noise, MaskImageTransform([0])])))


def test_an_intensity_transform_on_slices_cannot_be_taken_apart() -> None:
    inside = [Convert3DTo2DTransform(), GaussianNoiseTransform(), Convert2DTo3DTransform()]
    with pytest.raises(SemiSupervisedError, match="GaussianNoiseTransform stands between"):
        split_transforms(ComposeTransforms(inside))


def test_the_cascades_second_stage_is_refused() -> None:
    transform = nnUNetTrainer.get_training_transforms(
        (8, 8, 8), (-0.1, 0.1), None, (0,), False, is_cascaded=True, foreground_labels=(1,)
    )
    with pytest.raises(NotImplementedError, match="cascade"):
        split_transforms(transform)

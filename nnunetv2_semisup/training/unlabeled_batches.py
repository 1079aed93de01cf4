"""The unlabelled cases of a training as batches like those of nnU-Net's own loader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform

from nnunetv2_semisup.data.dataset import UnlabeledDataset
from nnunetv2_semisup.data.loader import UnlabeledLoader, stock_loader
from nnunetv2_semisup.data.manifest import unlabeled_folder
from nnunetv2_semisup.data.views import View, split_transforms


@dataclass(frozen=True)
class Augmentation:
    """The crop before nnU-Net's geometry transforms, in voxels, and its training transforms."""

    crop: Sequence[int]
    transforms: BasicTransform


def unlabeled_dataset(trainer: Any, pseudo_labels: Path | None = None) -> UnlabeledDataset:
    """The run's unlabelled cases, as preprocessed for its configuration; with the labels in this folder, if any."""
    base = Path(trainer.preprocessed_dataset_folder_base)
    folder = unlabeled_folder(base, trainer.configuration_manager.data_identifier)
    return UnlabeledDataset(folder, trainer.cases.unlabeled, pseudo_labels)


def augmentation_of(loader: Any) -> Augmentation:
    """Crop and augmentation of the labelled loader, which nnU-Net's `get_dataloaders` returned."""
    stock = stock_loader(loader)
    return Augmentation(stock.patch_size, stock.transforms)


def augmentation_for(trainer: Any) -> Augmentation:
    """Crop and augmentation that nnU-Net's `get_dataloaders` would give its labelled loader, without one."""
    labels, configuration = trainer.label_manager, trainer.configuration_manager
    rotation, in_plane, crop, mirror_axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    transforms = trainer.get_training_transforms(
        configuration.patch_size,
        rotation,
        None,
        mirror_axes,
        in_plane,
        use_mask_for_norm=configuration.use_mask_for_norm,
        is_cascaded=False,
        foreground_labels=labels.foreground_labels,
        regions=None,
        ignore_label=labels.ignore_label,
    )
    return Augmentation(crop, transforms)


def unlabeled_loader(
    trainer: Any, augmentation: Augmentation, dataset: UnlabeledDataset, kinds: Sequence[View]
) -> UnlabeledLoader:
    """Batches of the run's size from this dataset."""
    dim = len(trainer.configuration_manager.patch_size)
    return UnlabeledLoader(
        dataset,
        trainer.settings.data.batch_size,
        [int(size) for size in augmentation.crop][-dim:],
        trainer.configuration_manager.patch_size,
        split_transforms(augmentation.transforms),
        kinds,
        trainer.streams,
    )

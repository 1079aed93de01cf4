"""The unlabelled cases of a training as batches like those of nnU-Net's own loader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunetv2_semisup.data.dataset import UnlabeledDataset
from nnunetv2_semisup.data.loader import UnlabeledLoader
from nnunetv2_semisup.data.manifest import unlabeled_folder
from nnunetv2_semisup.data.views import View, split_transforms


def unlabeled_dataset(trainer: Any, pseudo_labels: Path | None = None) -> UnlabeledDataset:
    """The run's unlabelled cases, as preprocessed for its configuration; with the labels in this folder, if any."""
    base = Path(trainer.preprocessed_dataset_folder_base)
    folder = unlabeled_folder(base, trainer.configuration_manager.data_identifier)
    return UnlabeledDataset(folder, trainer.cases.unlabeled, pseudo_labels)


def unlabeled_loader(trainer: Any, labeled: Any, dataset: UnlabeledDataset, kinds: Sequence[View]) -> UnlabeledLoader:
    """Crops and augmentation like those of the labelled loader, which nnU-Net's `get_dataloaders` returned."""
    stock = labeled.data_loader if hasattr(labeled, "data_loader") else labeled.generator
    dim = len(trainer.configuration_manager.patch_size)
    return UnlabeledLoader(
        dataset,
        trainer.settings.data.batch_size,
        [int(size) for size in stock.patch_size][-dim:],
        trainer.configuration_manager.patch_size,
        split_transforms(stock.transforms),
        kinds,
        trainer.streams,
    )

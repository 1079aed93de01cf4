"""nnU-Net's batches of sparsely annotated cases, beside its own ones of the dense cases."""

from __future__ import annotations

from typing import Any

from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunetv2_semisup.data.loader import start_batches, stock_loader


def sparse_rows(batch_size: int, dense_share: float) -> int:
    """How many sparse patches come beside a batch of dense ones, at least one.

    >>> [sparse_rows(2, share) for share in (0.5, 0.67, 0.9, 0.2)]
    [2, 1, 1, 8]
    """
    return max(round(batch_size * (1 - dense_share) / dense_share), 1)


def sparse_loader(
    dense: Any, cases: Any, batch_size: int, labels: Any, probabilistic: bool, processes: int, pin: bool
) -> SingleThreadedAugmenter | NonDetMultiThreadedAugmenter:
    """Something to call `next` on for nnU-Net's batches of these cases, as it makes those of the dense ones.

    Args:
        dense: what nnU-Net's `get_dataloaders` returned for the dense cases.
        cases: nnU-Net's dataset of the sparse cases.
        batch_size: patches.
        labels: nnU-Net's label manager.
        probabilistic: nnU-Net's `probabilistic_oversampling`.
        processes: workers; 0: this process.
        pin: memory, where there is a GPU.
    """
    stock = stock_loader(dense)
    axes = slice(1 if stock.patch_size_was_2d else 0, None)
    loader = nnUNetDataLoader(
        cases,
        batch_size,
        stock.patch_size[axes],
        stock.final_patch_size[axes],
        labels,
        oversample_foreground_percent=stock.oversample_foreground_percent,
        probabilistic_oversampling=probabilistic,
        transforms=stock.transforms,
    )
    return start_batches(loader, processes, pin)

"""nnU-Net's own batches, with a say in how many rows are densely annotated."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader


class MixedDataLoader(nnUNetDataLoader):  # type: ignore[misc]  # nnU-Net has no types
    """nnU-Net's loader, but for the draw of the cases: so many rows of a batch are dense, the others sparse.

    Within dense and sparse cases the draw is nnU-Net's, uniform and with replacement. Which rows are dense is drawn as
    well, since nnU-Net forces foreground into the last rows of every batch.
    """

    def __init__(self, sparse: Collection[str], dense_share: float, *args: Any, **kwargs: Any) -> None:
        """As nnU-Net's, after two arguments.

        Args:
            sparse: identifiers of the sparse cases; all others are dense.
            dense_share: share of dense rows. At least one row is dense, and at least one sparse.
            args: nnU-Net's.
            kwargs: nnU-Net's.
        """
        super().__init__(*args, **kwargs)
        is_sparse = np.isin(self.indices, list(sparse))
        self._dense, self._sparse = np.array(self.indices)[~is_sparse], np.array(self.indices)[is_sparse]
        self.n_dense = dense_rows(self.batch_size, dense_share)

    def get_indices(self) -> Any:
        """Identifiers of the next batch."""
        dense = np.random.choice(self._dense, self.n_dense)
        sparse = np.random.choice(self._sparse, self.batch_size - self.n_dense)
        return np.random.permutation(np.concatenate([dense, sparse]))


def dense_rows(batch_size: int, dense_share: float) -> int:
    """How many rows of a batch with both kinds are dense.

    >>> [dense_rows(batch_size, 0.5) for batch_size in (2, 3, 12)], dense_rows(4, 1.0)
    ([1, 2, 6], 3)
    """
    return min(max(round(dense_share * batch_size), 1), batch_size - 1)


def mix_rows(loader: Any, labels: Any, probabilistic: bool, sparse: Collection[str], dense_share: float) -> None:
    """Put a MixedDataLoader in the place of the labelled loader that nnU-Net's `get_dataloaders` built and started.

    Args:
        loader: nnU-Net's augmenter, which goes on with the new loader; its workers start again.
        labels: nnU-Net's label manager.
        probabilistic: nnU-Net's `probabilistic_oversampling`.
        sparse: identifiers of the sparse cases.
        dense_share: see MixedDataLoader.
    """
    in_workers = isinstance(loader, NonDetMultiThreadedAugmenter)
    stock = loader.generator if in_workers else loader.data_loader
    axes = slice(1 if stock.patch_size_was_2d else 0, None)
    mixed = MixedDataLoader(
        sparse,
        dense_share,
        stock._data,
        stock.batch_size,
        stock.patch_size[axes],
        stock.final_patch_size[axes],
        labels,
        oversample_foreground_percent=stock.oversample_foreground_percent,
        probabilistic_oversampling=probabilistic,
        transforms=stock.transforms,
    )
    if in_workers:
        loader.generator = mixed
        loader.restart()
    else:
        loader.data_loader = mixed

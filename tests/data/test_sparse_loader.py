"""nnU-Net's batches of the sparse cases, as its own of the dense ones."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunetv2_semisup.data.sparse_loader import sparse_loader, sparse_rows

pytestmark = pytest.mark.fast

LABELS = SimpleNamespace(all_labels=[0, 1], has_ignore_label=True)


@pytest.mark.parametrize(
    ("batch_size", "share", "rows"), [(2, 0.5, 2), (2, 0.67, 1), (2, 0.99, 1), (1, 0.5, 1), (12, 0.75, 4), (2, 0.25, 6)]
)
def test_the_sparse_patches_fill_up_what_the_share_of_dense_ones_leaves(batch_size, share, rows):
    assert sparse_rows(batch_size, share) == rows


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_all_but_the_cases_and_the_number_is_as_in_nnunets_loader(patch):
    dense, sparse = (SimpleNamespace(identifiers=[f"{kind}_{index}" for index in range(3)]) for kind in "ds")
    final = tuple(size - 2 for size in patch)
    stock = nnUNetDataLoader(
        dense, 4, patch, final, LABELS, oversample_foreground_percent=0.33, transforms="transforms"
    )
    found = sparse_loader(SingleThreadedAugmenter(stock, None), sparse, 3, LABELS, False, 0, False).data_loader
    assert list(found.indices) == sparse.identifiers
    assert found.batch_size == 3
    same = ["patch_size", "final_patch_size", "patch_size_was_2d", "oversample_foreground_percent", "pad_sides",
            "annotated_classes_key", "has_ignore", "transforms", "infinite"]  # fmt: skip
    for name in same:
        assert getattr(found, name) == getattr(stock, name), name
    assert np.array_equal(found.need_to_pad, stock.need_to_pad)
    assert found.get_do_oversample.__name__ == stock.get_do_oversample.__name__

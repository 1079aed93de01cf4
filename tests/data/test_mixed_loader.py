"""Labelled batches with dense and sparse rows: nnU-Net's, but for which cases they hold."""

from __future__ import annotations

import pickle
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunetv2_semisup.data.mixed_loader import MixedDataLoader, dense_rows, mix_rows

pytestmark = pytest.mark.fast

CASES = [f"case_{index}" for index in range(6)]
SPARSE = CASES[2:]
LABELS = SimpleNamespace(all_labels=[0, 1], has_ignore_label=True)


def loader(batch_size=4, share=0.5):
    data = SimpleNamespace(identifiers=CASES)
    return MixedDataLoader(SPARSE, share, data, batch_size, (8, 8, 8), (6, 6, 6), LABELS)


@pytest.mark.parametrize(
    ("batch_size", "share", "n"), [(2, 0.5, 1), (2, 1.0, 1), (2, 0.01, 1), (4, 0.5, 2), (12, 0.25, 3)]
)
def test_every_batch_has_its_dense_rows_in_any_place(batch_size, share, n):
    np.random.seed(0)
    mixed = loader(batch_size, share)
    assert dense_rows(batch_size, share) == n
    places, cases = Counter(), Counter()
    for _ in range(400):
        keys = mixed.get_indices()
        assert len(keys) == batch_size
        dense = [row for row, key in enumerate(keys) if key not in SPARSE]
        assert len(dense) == n
        places.update(dense)
        cases.update(map(str, keys))
    # nnU-Net forces foreground into the last rows: neither kind may own them.
    assert min(places[row] for row in range(batch_size)) > 400 * n / batch_size * 0.6
    assert min(cases[case] for case in CASES[:2]) > 400 * n / 2 * 0.6
    assert min(cases[case] for case in SPARSE) > 400 * (batch_size - n) / len(SPARSE) * 0.6


def test_it_pickles_for_workers():
    keys = pickle.loads(pickle.dumps(loader())).get_indices()
    assert sum(key in SPARSE for key in keys) == 2


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_it_takes_the_place_of_nnunets_loader_and_keeps_all_else(patch):
    data = SimpleNamespace(identifiers=CASES)
    final = tuple(size - 2 for size in patch)
    stock = nnUNetDataLoader(data, 4, patch, final, LABELS, oversample_foreground_percent=0.33, transforms="transforms")
    augmenter = SingleThreadedAugmenter(stock, None)
    mix_rows(augmenter, LABELS, False, SPARSE, 0.5)
    mixed = augmenter.data_loader
    assert isinstance(mixed, MixedDataLoader)
    same = ["batch_size", "patch_size", "final_patch_size", "patch_size_was_2d", "oversample_foreground_percent",
            "pad_sides", "annotated_classes_key", "has_ignore", "transforms", "indices", "infinite"]  # fmt: skip
    for name in same:
        assert getattr(mixed, name) == getattr(stock, name), name
    assert np.array_equal(mixed.need_to_pad, stock.need_to_pad)
    assert mixed.get_do_oversample.__name__ == stock.get_do_oversample.__name__

from __future__ import annotations

import pickle
from pathlib import Path

import blosc2
import numpy as np
import numpy.typing as npt
import pytest

from nnunetv2_semisup.data.dataset import UnlabeledDataset, nonzero_box
from tests.data.cases import write_case

pytestmark = pytest.mark.fast


class CountingArray:
    """An array that counts the voxels that are read."""

    def __init__(self, array: npt.NDArray[np.int16]) -> None:
        self.array, self.shape, self.read = array, array.shape, 0

    def __getitem__(self, index: tuple[slice, ...]) -> npt.NDArray[np.int16]:
        part = self.array[index]
        self.read += part.size
        return part


def brute_force_box(nonzero: npt.NDArray[np.int16]) -> tuple[tuple[int, int], ...]:
    positions = np.argwhere(nonzero[0] == 0)
    if len(positions) == 0:
        return tuple((0, size) for size in nonzero.shape[1:])
    return tuple((int(low), int(high) + 1) for low, high in zip(positions.min(0), positions.max(0), strict=True))


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 40, 70), (1, 65, 33), (34, 2, 97)])
def test_box_equals_brute_force(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for inside in (0, 1, 2, 5, 50):
        nonzero = np.full((1, *shape), -1, np.int16)
        for position in rng.integers(0, shape, size=(inside, len(shape))):
            nonzero[(0, *position)] = 0
        assert nonzero_box(nonzero) == brute_force_box(nonzero)


def test_box_of_a_stored_mask_that_is_read_by_slices() -> None:
    nonzero = np.full((1, 20, 70, 50), -1, np.int16)
    nonzero[0, 3:9, 40:69, 5:6] = 0
    assert nonzero_box(blosc2.asarray(nonzero)) == ((3, 9), (40, 69), (5, 6))


def test_box_of_a_case_that_fills_its_image_costs_only_its_faces() -> None:
    mask = CountingArray(np.zeros((1, 64, 80, 100), np.int16))
    assert nonzero_box(mask) == ((0, 64), (0, 80), (0, 100))
    assert mask.read == 2 * (64 * 80 + 80 * 100 + 64 * 100)


def test_a_case_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 6, 7, 8)).astype(np.float32)
    nonzero = rng.integers(-1, 1, size=(1, 6, 7, 8)).astype(np.int16)
    name = "Fäll 1 (links)"
    write_case(tmp_path, name, image, nonzero, {"spacing": [3, 1, 1]})
    dataset = pickle.loads(pickle.dumps(UnlabeledDataset(tmp_path, [name])))
    stored_image, stored_nonzero, properties = dataset.load_case(name)
    np.testing.assert_array_equal(stored_image[:], image)
    np.testing.assert_array_equal(stored_nonzero[:], nonzero)
    assert properties == {"spacing": [3, 1, 1]}


def test_the_callers_list_keeps_its_order(tmp_path: Path) -> None:
    names = ["b", "c", "a"]
    assert UnlabeledDataset(tmp_path, names).identifiers == ("b", "c", "a")
    assert names == ["b", "c", "a"]

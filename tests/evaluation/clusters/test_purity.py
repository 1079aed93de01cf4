"""Purity and the Dice of chosen clusters, against brute force."""

import csv
import math

import numpy as np
import pytest

from nnunetv2_semisup.evaluation.clusters.purity import COLUMNS, Purity, count, foreground_dice, measure, write_csv

pytestmark = pytest.mark.fast
IGNORE = 9


def brute_force(clusters, labels, values):
    """Purity, share of the commonest label, and Dice, voxel by voxel."""
    voxels = [(c, v) for c, v in zip(clusters.ravel().tolist(), labels.ravel().tolist(), strict=True) if v in values]
    members = {c: [v for other, v in voxels if other == c] for c, _ in voxels}
    right = sum(max(own.count(v) for v in values) for own in members.values())
    chosen = {c for c, own in members.items() if sum(v > 0 for v in own) > len(own) / 2}
    predicted = [c in chosen for c, _ in voxels]
    truth = [v > 0 for _, v in voxels]
    both = sum(p and t for p, t in zip(predicted, truth, strict=True))
    everything = [v for _, v in voxels]
    commonest = max(everything.count(v) for v in values)
    return right / len(voxels), commonest / len(voxels), 2 * both / (sum(predicted) + sum(truth))


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_brute_force(seed: int):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 0, 1, 2, 4, IGNORE], (4, 5, 6))
    # Clusters that say something of the label.
    clusters = np.where(rng.random(labels.shape) < 0.7, labels % 5, rng.integers(0, 5, labels.shape)).astype(np.uint8)
    row = measure("case", 2, clusters, labels, 7, [0, 1, 2, 4])
    assert (row.case, row.sub_head) == ("case", 2)
    np.testing.assert_allclose(
        (row.purity, row.one_cluster, row.foreground_dice), brute_force(clusters, labels, [0, 1, 2, 4])
    )


def test_closed_forms():
    labels = np.array([0, 0, 0, 1, 1, 2])
    perfect = measure("c", 1, labels, labels, 3, [0, 1, 2])
    assert (perfect.purity, perfect.foreground_dice) == (1, 1)
    one = measure("c", 1, np.zeros(6, int), labels, 3, [0, 1, 2])
    assert (one.purity, one.one_cluster) == (0.5, 0.5)
    # Half of the only cluster is foreground, which is not most of it.
    assert one.foreground_dice == 0
    assert count(np.array([2, 2]), np.array([1, IGNORE]), 3, [0, 1]).tolist() == [[0, 0], [0, 0], [0, 1]]
    assert foreground_dice(np.array([[1, 9], [9, 1]])) == 2 * 9 / (10 + 10)


def test_what_does_not_exist_is_empty(tmp_path):
    background = measure("a", 1, np.array([0, 1]), np.array([0, 0]), 2, [0, 1])
    assert math.isnan(background.foreground_dice)
    assert background.purity == 1
    nothing = measure("b", 1, np.array([0]), np.array([IGNORE]), 2, [0, 1])
    assert math.isnan(nothing.purity)
    write_csv([background, nothing, Purity("c", 2, 0.5, 0.4, 0.123456)], tmp_path / "purity.csv")
    with (tmp_path / "purity.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [list(COLUMNS), ["a", "1", "1.0000", ""], ["b", "1", "", ""], ["c", "2", "0.5000", "0.1235"]]

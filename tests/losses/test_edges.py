"""Where an image has edges: against the formula, and what it must not depend on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch

from nnunetv2_semisup.losses import edges as module
from nnunetv2_semisup.losses.edges import edge_map
from tests.losses.references import noise, voxels

pytestmark = pytest.mark.fast


def edges_of(
    image: torch.Tensor, spacing: Sequence[float], gamma: float, mask: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """The formula voxel by voxel: differences of the nearest voxels, which at the border are the voxel itself."""
    edges, known = np.zeros(mask.shape), np.zeros(mask.shape, bool)
    for b, sample in enumerate(image.numpy()):
        inside = mask.numpy()[b, 0]
        for channel, v in product(sample, voxels(inside.shape)):
            low, high = np.quantile(channel[inside], [0.01, 0.99])
            square, valid = 0.0, inside[v]
            for axis, mm in enumerate(spacing):
                before, after = list(v), list(v)
                before[axis], after[axis] = max(v[axis] - 1, 0), min(v[axis] + 1, inside.shape[axis] - 1)
                ends = np.clip([channel[tuple(before)], channel[tuple(after)]], low, high)
                square += ((ends[1] - ends[0]) / (high - low) / (2 * mm)) ** 2
                valid &= inside[tuple(before)] & inside[tuple(after)]
            edges[(b, 0, *v)] += np.sqrt(square) / len(sample)
            known[(b, 0, *v)] = valid
        values = edges[b, 0][known[b, 0]]
        edges[b] = ((edges[b] - values.min()) / (values.max() - values.min())).clip(0, 1) ** gamma
    return np.where(known, edges, 0), known


@pytest.mark.parametrize("shape", [(9,), (6, 7), (5, 4, 6), (1, 4, 5)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("gamma", [0.75, 1.5])
def test_edges_equal_brute_force(shape, masked, gamma):
    image, spacing = noise(2, 3, *shape), [0.7, 1.5, 3.0][: len(shape)]
    mask = (noise(2, 1, *shape, seed=2) > 0.05) | (not masked)
    expected, known = edges_of(image, spacing, gamma, mask)
    edges, valid = edge_map(image, spacing, gamma, mask if masked else None)
    np.testing.assert_array_equal(valid.numpy(), known)
    np.testing.assert_allclose(edges.numpy(), expected, rtol=0, atol=1e-12)
    assert edges.min() == 0
    assert edges.max() == 1


def test_edges_of_a_step_are_the_two_voxels_beside_it():
    image = torch.zeros(1, 1, 4, 8)
    image[..., 5:] = -700  # any unit, any sign
    edges, valid = edge_map(image, [1.0, 1.0], 0.75)
    assert edges[0, 0].tolist() == [[0, 0, 0, 0, 1, 1, 0, 0]] * 4
    assert valid.all()


def test_edges_count_in_millimetres():
    """A ramp of the same slope per mm is the same edge along either axis; per voxel it would be 3 times as strong."""
    image = torch.zeros(1, 1, 30, 30)
    image[..., :15, :] = torch.arange(30.0)
    image[..., 15:, :] = 3 * torch.arange(15.0)[:, None]
    edges, _ = edge_map(image, [3.0, 1.0], 1.0)
    assert edges[0, 0, 5, 15].item() == pytest.approx(edges[0, 0, 20, 15].item(), rel=1e-4)


def test_neither_hot_voxels_nor_the_unit_of_a_channel_decide():
    image = noise(1, 2, 20, 20)
    image[:, 1] *= 1000
    image[0, 0, 3, 3] = 10
    hot = image.clone()
    hot[0, 0, 3, 3] = 1e6
    torch.testing.assert_close(edge_map(hot, [1.0, 1.0], 1.0), edge_map(image, [1.0, 1.0], 1.0), rtol=0, atol=1e-9)
    rescaled = 7 * image - 3
    torch.testing.assert_close(edge_map(rescaled, [1.0, 1.0], 1.0), edge_map(image, [1.0, 1.0], 1.0))


def test_percentiles_of_a_subsample_are_close(monkeypatch):
    """Also where its step would hit the same column of every row."""
    image = (noise(1, 1, 128, 128) + torch.linspace(0, 5, 128)).square()
    exact, _ = edge_map(image, [1.0, 1.0], 1.0)
    monkeypatch.setattr(module, "_PERCENTILE_VOXELS", 128)
    sampled, _ = edge_map(image, [1.0, 1.0], 1.0)
    assert 0 < (sampled - exact).abs().max() < 0.2


def test_large_patches_meet_no_limit():
    """torch.quantile refuses more than 2^24 voxels."""
    edges, valid = edge_map(torch.arange(2**24 + 1.0).reshape(1, 1, -1), [1.0], 1.0)
    assert valid.all()
    assert edges.max() == 1


def test_edges_have_no_gradient_and_constant_channels_none_to_give():
    image = noise(1, 2, 6, 6).requires_grad_()
    assert not edge_map(image, [1.0, 1.0], 0.5)[0].requires_grad
    constant = torch.cat([image[:, :1], torch.full((1, 1, 6, 6), 0.1)], 1)
    torch.testing.assert_close(edge_map(constant, [1.0, 1.0], 0.5), edge_map(image[:, :1], [1.0, 1.0], 0.5))
    assert (edge_map(constant[:, 1:], [1.0, 1.0], 0.5)[0] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.rand(1, 2, 4, 4), [1.0], 0.5), "spacing"),
        ((torch.rand(1, 2, 4, 4), [1.0, 0.0], 0.5), "spacing"),
        ((torch.rand(1, 2), [], 0.5), "spacing"),
        ((torch.rand(1, 2, 4), [1.0], 0.0), "gamma"),
        ((torch.rand(1, 2, 4), [1.0], 0.5, torch.ones(1, 2, 4)), "mask"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        edge_map(*arguments)

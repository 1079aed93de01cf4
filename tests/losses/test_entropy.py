"""Entropy of predictions, softmax and regions, against the formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nnunetv2_semisup.losses.cross_entropy import cross_entropy
from nnunetv2_semisup.losses.entropy import entropy_loss, shannon_entropy
from tests.losses.references import entropy_of, maps

pytestmark = pytest.mark.fast


def logits(*shape: int, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_shannon_entropy_equals_the_formula():
    p = maps(2, 4, 3, 2)
    found = shannon_entropy(p)
    assert found.shape == (2, 3, 2)
    for b, y, x in np.ndindex(2, 3, 2):
        assert found[b, y, x].item() == pytest.approx(entropy_of(p[b, :, y, x].numpy()), abs=1e-9)
    torch.testing.assert_close(shannon_entropy(p.movedim(1, -1), dim=-1), found)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_loss_equals_the_formula(regions, masked):
    z = logits(2, 3, 4, 5)
    mask = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(2)) > (0.4 if masked else -1)
    shares = []
    for b, y, x in np.argwhere(mask[:, 0].numpy()):
        voxel = z[b, :, y, x]
        if regions:
            p = voxel.sigmoid().numpy()
            shares.append(np.mean([entropy_of(np.array([s, 1 - s])) for s in p]) / math.log(2))
        else:
            shares.append(entropy_of(voxel.softmax(0).numpy()) / math.log(3))
    found = entropy_loss(z, mask if masked else None, regions=regions)
    assert found.item() == pytest.approx(np.mean(shares), abs=1e-9)


@pytest.mark.parametrize("regions", [False, True])
def test_bounds(regions):
    """0 for certain, 1 for uniform predictions."""
    assert entropy_loss(torch.zeros(1, 4, 3), regions=regions).item() == pytest.approx(1)
    certain = torch.full((1, 4, 3), -200.0)
    certain[:, 0] = 200
    assert entropy_loss(certain, regions=regions).item() == pytest.approx(0, abs=1e-9)


def test_two_classes_equal_one_region():
    """A softmax over (z, 0) is the sigmoid of z."""
    z = logits(2, 1, 5)
    two = torch.cat([z, torch.zeros_like(z)], dim=1)
    assert entropy_loss(two).item() == pytest.approx(entropy_loss(z, regions=True).item(), abs=1e-12)


def test_classes_may_be_renamed_and_logits_shifted():
    z = logits(2, 4, 5)
    expected = entropy_loss(z).item()
    assert entropy_loss(z[:, [2, 0, 3, 1]]).item() == pytest.approx(expected, abs=1e-12)
    assert entropy_loss(z + 7).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("regions", [False, True])
def test_gradcheck(regions):
    z = logits(2, 3, 2, 2).requires_grad_()
    mask = torch.tensor([True, False])[None, None, :, None].expand(2, 1, 2, 2)
    assert torch.autograd.gradcheck(lambda a: entropy_loss(a, mask, regions=regions), (z,))


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_loss_and_gradient_are_finite_at_extreme_logits(regions, dtype):
    z = (logits(1, 3, 4) * 1e4).to(dtype).requires_grad_()
    loss = entropy_loss(z, regions=regions)
    assert loss.dtype == torch.float32
    assert 0 <= loss.item() < 1e-3
    loss.backward()
    assert torch.isfinite(z.grad).all()


def test_shannon_entropy_has_a_finite_gradient_at_exact_one_hot():
    p = torch.eye(3)[None].requires_grad_()
    entropy = shannon_entropy(p)
    assert (entropy == 0).all()
    entropy.sum().backward()
    assert torch.isfinite(p.grad).all()


def test_undecided_voxels_are_left_alone_and_the_pull_is_strongest_at_0_82():
    """|dH/dz| = p (1 - p) |z| of two classes: Liu et al. 2023 prefer that to pseudo-labels, which pull at any guess."""
    z = torch.linspace(0, 6, 6001, dtype=torch.float64).requires_grad_()
    (entropy_loss(z[:, None, None], regions=True) * len(z) * math.log(2)).backward()
    p = z.detach().sigmoid()
    torch.testing.assert_close(-z.grad, p * (1 - p) * z.detach())
    assert z.grad[0] == 0
    assert p[z.grad.abs().argmax()].item() == pytest.approx(0.824, abs=1e-3)


def test_hard_pseudo_labels_minimise_the_min_entropy_which_is_at_most_shannons():
    z = logits(2, 4, 50)
    p = z.softmax(dim=1)
    answer = torch.zeros_like(p).scatter_(1, p.argmax(dim=1, keepdim=True), 1)
    min_entropy = -p.amax(dim=1).log()
    torch.testing.assert_close(cross_entropy(z, answer), min_entropy.mean())
    assert (min_entropy <= shannon_entropy(p) + 1e-12).all()
    assert (shannon_entropy(p) <= math.log(4) + 1e-12).all()


@pytest.mark.parametrize("regions", [False, True])
def test_descent_makes_predictions_certain(regions):
    z = logits(1, 3, 20, scale=0.5).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        entropy_loss(z, regions=regions).backward()
        optimizer.step()
    assert entropy_loss(z.detach(), regions=regions).item() < 0.1


def test_autocast_does_not_reach_inside():
    z = logits(1, 3, 4).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = entropy_loss(z)
    assert torch.equal(cast, entropy_loss(z))


@pytest.mark.parametrize("regions", [False, True])
def test_no_valid_voxel_gives_a_zero_attached_to_the_graph(regions):
    z = logits(1, 3, 4).requires_grad_()
    loss = entropy_loss(z, torch.zeros(1, 1, 4), regions=regions)
    assert loss.item() == 0
    loss.backward()
    assert (z.grad == 0).all()


@pytest.mark.parametrize("regions", [False, True])
def test_what_lies_outside_the_mask_has_no_influence(regions):
    z = logits(1, 3, 4)
    mask = torch.tensor([[[True, True, False, False]]])
    z[..., 2:] = float("nan")
    z.requires_grad_()
    loss = entropy_loss(z, mask, regions=regions)
    assert loss.item() == pytest.approx(entropy_loss(z[..., :2], regions=regions).item(), abs=1e-12)
    loss.backward()
    assert torch.isfinite(z.grad).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at least 2 classes"):
        entropy_loss(torch.rand(1, 1, 4))
    with pytest.raises(ValueError, match="mask"):
        entropy_loss(torch.rand(1, 2, 4), torch.ones(1, 4))
    assert entropy_loss(torch.zeros(1, 1, 4), regions=True).item() == pytest.approx(1)

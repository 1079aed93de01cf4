"""Rows 11 and 13 of the properties in methods/mi_bim.md 3.5, and what the loss promises beside them."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from nnunetv2_semisup.losses.mutual_information import local_joint, mutual_information
from nnunetv2_semisup.losses.regularised_information import assignment_joint, regularised_mi_loss
from tests.losses.references import maps, one_hot

pytestmark = pytest.mark.fast

ALPHAS = [0.0, 0.25, 0.5, 1.0]
SHAPES = [(5, 4), (3, 4, 2)]


def brute_force_joint(z1: torch.Tensor, z2: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    joint = np.zeros((z1.shape[1], z1.shape[1]))
    for b, *v in product(*map(range, mask[:, 0].shape)):
        if mask[(b, 0, *v)]:
            joint += np.outer(z1[(b, slice(None), *v)], z2[(b, slice(None), *v)])
    return joint


def regularised_mi_of(joint: np.ndarray, alpha: float, lam: float, eps: float) -> float:
    """The formula entry by entry."""
    p = (joint + joint.T) / 2 / joint.sum()
    clusters, total = len(p), 0.0
    for i, j in product(range(clusters), repeat=2):
        target = alpha * (i == j) / clusters + (1 - alpha) * p[i, j]
        total -= target * math.log(p[i, j] + eps)
        total += lam * p[i, j] * (math.log(p[i].sum() + eps) + math.log(p[:, j].sum() + eps))
    return total


@pytest.fixture(params=SHAPES, ids=["2D", "3D"])
def views(request):
    """Two related maps of 4 clusters, so that their MI is far from 0."""
    first = maps(2, 4, *request.param)
    return first, (first + 0.3 * maps(2, 4, *request.param, seed=1)) / 1.3


def random_mask(z: torch.Tensor) -> torch.Tensor:
    return torch.rand(z[:, :1].shape, generator=torch.Generator().manual_seed(2)) > 0.4


def balanced(clusters: int) -> torch.Tensor:
    return one_hot(torch.arange(clusters * 4).reshape(1, 4, -1) % clusters, clusters)


# Against the formula


@pytest.mark.parametrize("masked", [False, True])
def test_joint_equals_brute_force(views, masked):
    mask = random_mask(views[0]) | (not masked)
    joint = assignment_joint(*views, mask if masked else None)
    np.testing.assert_allclose(joint.numpy(), brute_force_joint(*views, mask), rtol=0, atol=1e-12)
    assert joint.sum().item() == pytest.approx(mask.sum().item(), abs=1e-12)


def test_joint_is_that_of_the_displacement_zero(views):
    mask = random_mask(views[0])
    centre = local_joint(*views, [0] * (views[0].ndim - 2), mask).squeeze()
    torch.testing.assert_close(assignment_joint(*views, mask), centre, rtol=0, atol=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("lam", [1.0, 1.5])
@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_row13_equals_the_formula(views, alpha, lam, eps):
    mask = random_mask(views[0])
    expected = regularised_mi_of(brute_force_joint(*views, mask), alpha, lam, eps)
    assert regularised_mi_loss(*views, alpha, lam, mask, eps).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_row13_closed_form_of_entropies(views, alpha):
    """alpha CE(I/K, P) + (1 - alpha) H(P) - H(p) - H(q), without eps."""
    joint = brute_force_joint(*views, random_mask(views[0]))
    p = (joint + joint.T) / 2 / joint.sum()
    cross_entropy, entropy = -np.log(np.diag(p)).mean(), -(p * np.log(p)).sum()
    marginal = -(p.sum(0) * np.log(p.sum(0))).sum()
    expected = alpha * cross_entropy + (1 - alpha) * entropy - 2 * marginal
    loss = regularised_mi_loss(*views, alpha, mask=random_mask(views[0]), eps=0)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_row13_without_target_it_is_the_negative_mutual_information(views):
    expected = -mutual_information(assignment_joint(*views)).item()
    assert regularised_mi_loss(*views, alpha=0, eps=0).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("alpha", [*ALPHAS, 0.7])
@pytest.mark.parametrize("clusters", [2, 5, 20])
def test_row13_balanced_agreement_is_the_optimum_of_every_alpha(alpha, clusters):
    z = balanced(clusters)
    assert regularised_mi_loss(z, z, alpha, eps=1e-14).item() == pytest.approx(-math.log(clusters), abs=1e-9)
    assert regularised_mi_loss(z, z, alpha).item() == pytest.approx(-math.log(clusters), abs=1e-3)
    assert regularised_mi_loss(z, z, alpha, lam=1.5, eps=1e-14).item() == pytest.approx(-2 * math.log(clusters))


def test_row13_renaming_the_clusters_of_one_view():
    """MI does not see a swap of names in pairs, which symmetrisation leaves alone; the target does."""
    z = balanced(4)
    swapped = z[:, [1, 0, 3, 2]]
    assert regularised_mi_loss(z, swapped, alpha=0).item() == pytest.approx(-math.log(4), abs=1e-4)
    assert regularised_mi_loss(z, z, alpha=0.5).item() == pytest.approx(-1.39, abs=0.01)
    assert regularised_mi_loss(z, swapped, alpha=0.5).item() == pytest.approx(3.68, abs=0.01)


def test_row13_a_cyclic_renaming_of_one_view():
    """Without symmetrisation the MI stays; the loss symmetrises, pays log 2 at alpha = 0, and far more above it."""
    z = balanced(4)
    joint = assignment_joint(z, z.roll(1, dims=1))
    assert mutual_information(joint, symmetrise=False).item() == pytest.approx(math.log(4), abs=1e-9)
    losses = [regularised_mi_loss(z, z.roll(1, dims=1), alpha).item() for alpha in (0, 0.5)]
    assert losses[0] == pytest.approx(math.log(2) - math.log(4), abs=1e-3)
    assert losses[1] == pytest.approx(0.5 * -math.log(1e-5) + 0.5 * math.log(8) - 2 * math.log(4), abs=1e-3)


# Symmetries


@pytest.mark.parametrize("alpha", ALPHAS)
def test_renaming_both_views_swapping_and_flipping_change_nothing(views, alpha):
    z1, z2 = views
    loss = regularised_mi_loss(z1, z2, alpha).item()
    order = [2, 0, 3, 1]
    for other in ((z1[:, order], z2[:, order]), (z2, z1), (z1.flip(2, 3), z2.flip(2, 3))):
        assert regularised_mi_loss(*other, alpha).item() == pytest.approx(loss, abs=1e-12)


def test_samples_and_voxels_count_alike(views):
    """The joint of a batch is the sum of its samples' joints: one large sample instead of two changes nothing."""
    joints = torch.stack([assignment_joint(*(z[b : b + 1] for z in views)) for b in range(2)])
    torch.testing.assert_close(assignment_joint(*views), joints.sum(0), rtol=0, atol=1e-12)
    joined = regularised_mi_loss(*(torch.cat([z[:1], z[1:]], dim=2) for z in views), 0.5)
    assert joined.item() == pytest.approx(regularised_mi_loss(*views, 0.5).item(), abs=1e-12)


# Gradients and number formats


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_row11_gradcheck(views, alpha):
    """Of the whole formula: a detached target would fail at alpha < 1."""
    z1, z2 = (z[:, :3, :2].clone().requires_grad_() for z in views)
    mask = random_mask(z1)
    assert torch.autograd.gradcheck(lambda a, b: regularised_mi_loss(a, b, alpha, 1.2, mask), (z1, z2))


EXTREMES = {
    "exact one-hot": balanced(3),
    "one cluster": one_hot(torch.zeros(1, 6, 6, dtype=torch.long), 3),
    "uniform": torch.full((1, 3, 6, 6), 1 / 3).double(),
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_row11_loss_and_gradient_are_finite_at_extremes(name, dtype):
    z = EXTREMES[name].to(dtype).requires_grad_()
    for alpha in (0.0, 0.5, 1.0):
        loss = regularised_mi_loss(z, z, alpha)
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.isfinite(loss)
        (gradient,) = torch.autograd.grad(loss, z)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_formats_are_computed_in_float32(views, dtype):
    halves = [z.to(dtype) for z in views]
    expected = regularised_mi_loss(*(z.double() for z in halves), 0.5).item()
    assert regularised_mi_loss(*halves, 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_autocast_does_not_reach_inside(views):
    singles = [z.float() for z in views]
    plain = regularised_mi_loss(*singles, 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(regularised_mi_loss(*singles, 0.5), plain)


def test_descent_finds_balanced_clusters_that_agree():
    """From small noise, with views that name the clusters differently at first."""
    logits = [0.1 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    logits = [x.requires_grad_() for x in logits]
    optimizer = torch.optim.Adam(logits, lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        loss = regularised_mi_loss(logits[0].softmax(1), logits[1].softmax(1), 0.5)
        loss.backward()
        optimizer.step()
    assert loss.item() < -0.95 * math.log(4)
    assert (logits[0].argmax(1) == logits[1].argmax(1)).float().mean() > 0.95


# What the callers rely on


def test_what_lies_outside_the_mask_has_no_influence(views):
    mask = random_mask(views[0])
    clean = [z.clone().requires_grad_() for z in views]
    poisoned = [z.masked_fill(~mask, torch.nan).requires_grad_() for z in views]
    losses = [regularised_mi_loss(*pair, 0.5, mask=mask.float()) for pair in (clean, poisoned)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    for one, other in zip(clean, poisoned, strict=True):
        assert torch.equal(one.grad, other.grad)
        assert (one.grad.masked_fill(mask, 0) == 0).all()


def test_summed_joints_make_several_processes_equal_one(views):
    """Every process sees its own samples and the joint of all; their gradients are those of one process."""
    both = [z.clone().requires_grad_() for z in views]
    whole = regularised_mi_loss(*both, 0.5)
    whole.backward()
    for rank in range(2):
        own = [z[rank : rank + 1].clone().requires_grad_() for z in views]
        others = assignment_joint(*(z[1 - rank : 2 - rank] for z in views))
        share = regularised_mi_loss(*own, 0.5, reduce=lambda joint, others=others: joint + others)
        assert share.item() == pytest.approx(whole.item(), abs=1e-12)
        share.backward()
        for z, reference in zip(own, both, strict=True):
            torch.testing.assert_close(z.grad[0], reference.grad[rank], rtol=0, atol=1e-12)


def test_a_process_without_a_valid_voxel_still_takes_part(views):
    z1 = views[0][:1].clone().requires_grad_()
    others = assignment_joint(*(z[1:] for z in views))
    nothing = torch.zeros_like(z1[:, :1])
    loss = regularised_mi_loss(z1, views[1][:1], 0.5, mask=nothing, reduce=lambda joint: joint + others)
    assert loss.item() == pytest.approx(regularised_mi_loss(*(z[1:] for z in views), 0.5).item(), abs=1e-12)
    loss.backward()
    assert (z1.grad == 0).all()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_empty_input_gives_a_zero_attached_to_the_graph(views, alpha):
    z = views[0].clone().requires_grad_()
    nothing = torch.zeros_like(z[:, :1], dtype=torch.bool)
    for loss in (regularised_mi_loss(z, z, alpha, mask=nothing), regularised_mi_loss(z[:0], z[:0], alpha)):
        assert loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, z)
        assert (gradient == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.rand(1, 2, 4), torch.rand(1, 3, 4), 0.5), "one shape"),
        ((torch.rand(4, 2), torch.rand(4, 2), 0.5), "one shape"),
        ((torch.rand(1, 2, 4), torch.rand(1, 2, 4), -0.1), "alpha"),
        ((torch.rand(1, 2, 4), torch.rand(1, 2, 4), 1.1), "alpha"),
        ((torch.rand(1, 2, 4), torch.rand(1, 2, 4), 0.5, 1.0, torch.ones(1, 4)), "mask"),
        ((torch.rand(1, 2, 4), torch.rand(1, 2, 4), 0.5, 1.0, torch.ones(1, 2, 4)), "mask"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        regularised_mi_loss(*arguments)


@pytest.mark.gpu
def test_cuda_under_autocast_equals_cpu(views):
    expected = regularised_mi_loss(*views, 0.5).item()
    with torch.autocast("cuda", dtype=torch.float16):
        loss = regularised_mi_loss(*(z.float().cuda() for z in views), 0.5)
    assert loss.item() == pytest.approx(expected, abs=1e-5)

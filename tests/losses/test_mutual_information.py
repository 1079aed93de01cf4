"""Rows 2 to 9, 11, 12, 14, 16 and 19 of the properties in methods/mi_bim.md 3.5."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from nnunetv2_semisup.losses.consistency import mse_consistency
from nnunetv2_semisup.losses.mutual_information import (
    global_joint,
    global_mi_loss,
    joint_probabilities,
    local_joint,
    local_mi_loss,
    marginal_entropy,
    mutual_information,
)
from tests.losses.references import brute_force_joint, displacements, entropy_of, maps, mutual_information_of, one_hot

pytestmark = pytest.mark.fast

WINDOW = (1, 1, 1)


@pytest.fixture
def views():
    """Two related maps of 4 clusters, so that their MI is far from 0."""
    first = maps(2, 4, 5, 4, 3)
    return first, (first + 0.3 * maps(2, 4, 5, 4, 3, seed=1)) / 1.3


# Against the formula


@pytest.mark.parametrize("symmetrise", [True, False])
@pytest.mark.parametrize("lam", [1.0, 1.5])
@pytest.mark.parametrize("masked", [False, True])
def test_row01_local_loss_equals_brute_force(views, symmetrise, lam, masked):
    mask = torch.rand(2, 1, 5, 4, 3, generator=torch.Generator().manual_seed(2)) > 0.4 if masked else None
    joint = brute_force_joint(*views, WINDOW, mask)
    expected = np.mean([mutual_information_of(joint[lag], lam, symmetrise) for lag, _ in displacements(WINDOW)])
    loss = local_mi_loss(*views, WINDOW, mask, lam=lam, symmetrise=symmetrise)
    assert loss.item() == pytest.approx(-expected, abs=1e-9)


def test_row01_displacements_without_pairs_are_dropped_from_the_mean(views):
    """A window larger than the map: the mean runs over the displacements that have pairs."""
    joint = brute_force_joint(*views, (0, 0, 4))
    expected = [mutual_information_of(joint[lag]) for lag, _ in displacements((0, 0, 4)) if joint[lag].sum() > 0]
    assert len(expected) == 5
    assert local_mi_loss(*views, (0, 0, 4)).item() == pytest.approx(-np.mean(expected), abs=1e-9)


@pytest.mark.parametrize("symmetrise", [True, False])
def test_row01_global_loss_equals_the_formula(symmetrise):
    z1, z2 = maps(7, 4), maps(7, 4, seed=1)
    joint = sum(np.outer(a, b) for a, b in zip(z1.numpy(), z2.numpy(), strict=True))
    np.testing.assert_allclose(global_joint(z1, z2).numpy(), joint, atol=1e-12)
    expected = -mutual_information_of(joint, symmetrise=symmetrise)
    assert global_mi_loss(z1, z2, symmetrise=symmetrise).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("masked", [False, True])
def test_marginal_entropy_is_that_of_the_mean(masked):
    z = maps(2, 4, 5, 3)
    mask = torch.rand(2, 1, 5, 3, generator=torch.Generator().manual_seed(2)) > (0.4 if masked else -1)
    inside = z.numpy().transpose(0, 2, 3, 1)[mask[:, 0].numpy()]
    found = marginal_entropy(z, mask if masked else None).item()
    assert found == pytest.approx(entropy_of(inside.mean(0)), abs=1e-9)


# The joint distribution


@pytest.mark.parametrize("symmetrise", [True, False])
def test_row02_probabilities_of_every_displacement(views, symmetrise):
    p = joint_probabilities(local_joint(*views, WINDOW), symmetrise)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum((-2, -1)), torch.ones(3, 3, 3).double(), rtol=0, atol=1e-12)
    assert torch.equal(p, p.mT) is symmetrise


# Closed forms


@pytest.mark.parametrize("clusters", [2, 5, 20])
def test_row03_identical_balanced_one_hot_reaches_log_k(clusters):
    z = one_hot(torch.arange(clusters * 4).reshape(1, 4, -1) % clusters, clusters)
    assert local_mi_loss(z, z, (0, 0)).item() == pytest.approx(-math.log(clusters), abs=1e-9)
    rows = z.movedim(1, -1).flatten(0, -2)
    assert global_mi_loss(rows, rows).item() == pytest.approx(-math.log(clusters), abs=1e-9)


def constant_map(*marginals: float) -> torch.Tensor:
    return torch.tensor(marginals).double()[None, :, None, None].expand(1, -1, 16, 16)


def test_row04_independent_maps_have_no_information_at_any_displacement():
    """Constant maps, any marginals, and the released code's subtraction of the minimum, which reports some."""
    z1, z2 = constant_map(0.7, 0.3), constant_map(0.2, 0.8)
    information = mutual_information(local_joint(z1, z2, (1, 1)), symmetrise=False)
    torch.testing.assert_close(information, torch.zeros(3, 3).double(), rtol=0, atol=1e-12)

    assert local_mi_loss(z1, z1, (1, 1)).item() == pytest.approx(0, abs=1e-12)
    joint = local_joint(z1, z1, (1, 1))
    torch.testing.assert_close(mutual_information(joint), torch.zeros(3, 3).double(), rtol=0, atol=1e-12)
    assert mutual_information(joint - joint.min()).mean().item() == pytest.approx(0.032, abs=1e-3)


def test_row04_a_product_joint_has_no_information():
    p, q = maps(1, 6)[0], maps(1, 6, seed=1)[0]
    assert mutual_information(torch.outer(p, q), symmetrise=False).item() == pytest.approx(0, abs=1e-12)
    assert mutual_information(torch.outer(p, p)).item() == pytest.approx(0, abs=1e-12)


# Bounds


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("symmetrise", [True, False])
def test_row05_information_lies_between_zero_and_the_marginal_entropies(seed, symmetrise):
    z1, z2 = maps(2, 5, 4, 4, seed=seed, sharpness=4), maps(2, 5, 4, 4, seed=seed + 9, sharpness=4)
    p = joint_probabilities(local_joint(z1, z2, (1, 1)), symmetrise)
    for lag, _ in displacements((1, 1)):
        information = mutual_information(p[lag], symmetrise=False).item()
        bound = min(entropy_of(p[lag].sum(0).numpy()), entropy_of(p[lag].sum(1).numpy()))
        assert -1e-12 <= information <= bound + 1e-9 <= math.log(5) + 1e-8


def test_row06_few_pairs_bound_the_global_term():
    """Two pairs carry at most log 2 nats; symmetrised, views in different clusters reach log 4."""
    first, second = torch.eye(20)[[0, 1]].double(), torch.eye(20)[[2, 3]].double()
    assert global_mi_loss(first, second, symmetrise=False).item() == pytest.approx(-math.log(2), abs=1e-9)
    assert global_mi_loss(first, second).item() == pytest.approx(-math.log(4), abs=1e-9)
    for seed in range(5):
        z1, z2 = maps(3, 20, seed=seed, sharpness=30), maps(3, 20, seed=seed + 9, sharpness=30)
        assert -global_mi_loss(z1, z2, symmetrise=False).item() <= math.log(3) + 1e-9
        assert -global_mi_loss(z1, z2).item() <= math.log(6) + 1e-9


# Symmetries


def test_row07_renaming_clusters(views):
    """Both views together: nothing changes. One view: nothing changes only without symmetrisation."""
    z1, z2 = views
    order = torch.tensor([2, 0, 3, 1])
    loss, plain = local_mi_loss(z1, z2, WINDOW).item(), local_mi_loss(z1, z2, WINDOW, symmetrise=False).item()
    both = local_mi_loss(z1[:, order], z2[:, order], WINDOW).item()
    assert both == pytest.approx(loss, abs=1e-12)
    one_plain = local_mi_loss(z1[:, order], z2, WINDOW, symmetrise=False).item()
    assert one_plain == pytest.approx(plain, abs=1e-12)
    assert abs(local_mi_loss(z1[:, order], z2, WINDOW).item() - loss) > 1e-3


@pytest.mark.parametrize("symmetrise", [True, False])
def test_row08_swapping_the_views_changes_nothing(views, symmetrise):
    z1, z2 = views
    one, other = (local_mi_loss(*pair, WINDOW, symmetrise=symmetrise).item() for pair in ((z1, z2), (z2, z1)))
    assert one == pytest.approx(other, abs=1e-12)


@pytest.mark.parametrize("axes", [(2,), (3, 4), (2, 3, 4)])
def test_row09_flipping_both_views_changes_nothing(views, axes):
    flipped = [z.flip(axes) for z in views]
    assert local_mi_loss(*flipped, WINDOW).item() == pytest.approx(local_mi_loss(*views, WINDOW).item(), abs=1e-12)


# Gradients


def test_row11_gradcheck(views):
    z1, z2 = (z[:1, :3, :3, :2, :2].clone().requires_grad_() for z in views)
    mask = torch.ones(1, 1, 3, 2, 2, dtype=torch.bool)
    mask[..., 0, 0] = False
    assert torch.autograd.gradcheck(lambda a, b: local_mi_loss(a, b, (1, 0, 1), mask, lam=1.2), (z1, z2))
    rows = maps(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: global_mi_loss(a, a.flip(0)), (rows,))
    assert torch.autograd.gradcheck(lambda a: marginal_entropy(a), (rows,))


EXTREMES = {
    "exact one-hot": one_hot(torch.arange(36).reshape(1, 6, 6) % 3, 3),
    "one cluster": one_hot(torch.zeros(1, 6, 6, dtype=torch.long), 3),
    "uniform": torch.full((1, 3, 6, 6), 1 / 3).double(),
    "huge half-precision logits": (torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)).half() * 1e4)
    .float()
    .softmax(1),
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_row11_loss_and_gradient_are_finite_at_extremes(name, dtype):
    z = EXTREMES[name].to(dtype).requires_grad_()
    rows = z.movedim(1, -1).flatten(0, -2)
    for loss in (local_mi_loss(z, z, (1, 1)), global_mi_loss(rows, rows), marginal_entropy(z)):
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.isfinite(loss)
        (gradient,) = torch.autograd.grad(loss, z, retain_graph=True)
        assert torch.isfinite(gradient).all()


def test_row11_the_floor_leaves_values_of_exact_assignments_alone():
    z = one_hot(torch.tensor([[[0, 0, 1, 2, 2, 2]]]), 3)
    expected = entropy_of(np.array([2, 1, 3]) / 6)
    assert local_mi_loss(z, z, (0, 0)).item() == pytest.approx(-expected, abs=1e-12)


@pytest.mark.parametrize("local", [True, False])
def test_row12_descent_finds_balanced_clusters(local):
    """300 steps from small noise; an exactly collapsed assignment would have no gradient."""
    generator = torch.Generator().manual_seed(0)
    logits = (0.1 * torch.randn(1, 10, 10, 10, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)

    def loss_of(z: torch.Tensor) -> torch.Tensor:
        rows = z.movedim(1, -1).flatten(0, -2)
        return local_mi_loss(z, z, (0, 0)) if local else global_mi_loss(rows, rows)

    for _ in range(300):
        optimizer.zero_grad()
        loss_of(logits.softmax(1)).backward()
        optimizer.step()
    z = logits.detach().softmax(1)
    assert -loss_of(z).item() > 0.95 * math.log(10)
    assert marginal_entropy(z).item() > 0.97 * math.log(10)


# What the callers rely on


def test_row14_equal_sub_heads_average_to_one(views):
    """Losses are means, not sums: over sub-heads, displacements, samples and voxels alike."""
    one = local_mi_loss(*views, WINDOW)
    twice = local_mi_loss(*(torch.cat([z, z]) for z in views), WINDOW)
    assert torch.stack([one, twice]).mean().item() == pytest.approx(one.item(), abs=1e-12)


def test_row16_flipped_features_of_an_equivariant_network_are_identical():
    with torch.random.fork_rng():
        head = nn.Sequential(nn.Conv3d(2, 4, 1), nn.Softmax(1)).double()
    image = torch.randn(1, 2, 4, 5, 6, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        reference, transformed = head(image).flip(2, 4), head(image.flip(2, 4))
    assert mse_consistency(transformed, reference).item() == 0
    assert torch.equal(local_mi_loss(transformed, reference, WINDOW), local_mi_loss(transformed, transformed, WINDOW))


def test_row19_autocast_moves_the_loss_by_less_than_a_thousandth():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Conv3d(8, 5, 1)
        coarse = 10 * torch.randn(2, 8, 3, 3, 3)
        features = nn.functional.interpolate(coarse, scale_factor=4, mode="trilinear")
        noisy = features + 0.1 * torch.randn_like(features)

    def loss() -> torch.Tensor:
        # As a regularizer does it: the cast comes before the softmax.
        return local_mi_loss(head(features).float().softmax(1), head(noisy).float().softmax(1), WINDOW)

    plain = loss().item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss().item()
    assert plain < -0.2
    assert abs(cast - plain) < 1e-3


def test_autocast_does_not_reach_inside(views):
    rows = [z.float().movedim(1, -1).flatten(0, -2) for z in views]
    maps_ = [z.float() for z in views]
    plain = local_mi_loss(*maps_, WINDOW), global_mi_loss(*rows), marginal_entropy(maps_[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = local_mi_loss(*maps_, WINDOW), global_mi_loss(*rows), marginal_entropy(maps_[0])
    for one, other in zip(plain, cast, strict=True):
        assert torch.equal(one, other)


def test_summed_joints_make_several_processes_equal_one(views):
    """Every process sees its own samples and the joint of all; their gradients are those of one process."""
    both = [z.clone().requires_grad_() for z in views]
    whole = local_mi_loss(*both, WINDOW)
    whole.backward()
    for rank in range(2):
        own = [z[rank : rank + 1].clone().requires_grad_() for z in views]
        others = local_joint(*(z[1 - rank : 2 - rank] for z in views), WINDOW)
        share = local_mi_loss(*own, WINDOW, reduce=lambda joint, others=others: joint + others)
        assert share.item() == pytest.approx(whole.item(), abs=1e-12)
        share.backward()
        for z, reference in zip(own, both, strict=True):
            torch.testing.assert_close(z.grad[0], reference.grad[rank], rtol=0, atol=1e-12)

    rows = maps(6, 4), maps(6, 4, seed=1)
    halves = [[z[:2] for z in rows], [z[2:] for z in rows]]
    share = global_mi_loss(*halves[0], reduce=lambda joint: joint + global_joint(*halves[1]))
    assert share.item() == pytest.approx(global_mi_loss(*rows).item(), abs=1e-12)


def test_a_process_without_a_valid_voxel_still_takes_part(views):
    z1 = views[0][:1].clone().requires_grad_()
    others = local_joint(*(z[1:] for z in views), WINDOW)
    nothing = torch.zeros(1, 1, 5, 4, 3)
    loss = local_mi_loss(z1, views[1][:1], WINDOW, nothing, reduce=lambda joint: joint + others)
    assert loss.item() == pytest.approx(local_mi_loss(*(z[1:] for z in views), WINDOW).item(), abs=1e-12)
    loss.backward()
    assert (z1.grad == 0).all()


def test_empty_input_gives_a_zero_attached_to_the_graph(views):
    z = views[0].clone().requires_grad_()
    nothing = torch.zeros(2, 1, 5, 4, 3, dtype=torch.bool)
    rows = z.movedim(1, -1).flatten(0, -2)[:0]
    for loss in (local_mi_loss(z, z, WINDOW, nothing), global_mi_loss(rows, rows), marginal_entropy(z, nothing)):
        assert loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, z, retain_graph=True)
        assert (gradient == 0).all()


def test_a_batch_of_joints_equals_every_joint_alone(views):
    joint = local_joint(*views, WINDOW)
    information = mutual_information(joint, lam=1.3)
    for lag, _ in displacements(WINDOW):
        assert information[lag].item() == pytest.approx(mutual_information(joint[lag], lam=1.3).item(), abs=1e-12)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        global_mi_loss(torch.rand(3, 4), torch.rand(2, 4))
    with pytest.raises(ValueError, match="mask"):
        marginal_entropy(torch.rand(2, 3, 4, 4), torch.ones(2, 4, 4))
    with pytest.raises(ValueError, match="radius"):
        local_mi_loss(torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4), (1,))


@pytest.mark.gpu
def test_cuda_under_autocast_equals_cpu(views):
    expected = local_mi_loss(*views, WINDOW).item()
    with torch.autocast("cuda", dtype=torch.float16):
        loss = local_mi_loss(*(z.float().cuda() for z in views), WINDOW)
    assert loss.item() == pytest.approx(expected, abs=1e-5)

"""The mean squared difference of probabilities, and what a mask leaves of a mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunetv2_semisup.losses.consistency import mse_consistency
from tests.losses.references import maps

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 2)])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_formula(shape, masked):
    p, q = maps(2, 3, *shape), maps(2, 3, *shape, seed=1)
    mask = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(2)) > (0.4 if masked else -1)
    inside = np.broadcast_to(mask.numpy(), p.shape)
    expected = ((p.numpy() - q.numpy())[inside] ** 2).mean()
    assert mse_consistency(p, q, mask if masked else None).item() == pytest.approx(expected, abs=1e-12)


def test_a_numeric_mask_counts_like_a_boolean_one():
    p, q = maps(2, 3, 4, 4), maps(2, 3, 4, 4, seed=1)
    mask = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(2)) > 0.5
    assert torch.equal(mse_consistency(p, q, mask), mse_consistency(p, q, mask.float()))


def test_a_mask_may_have_a_channel_for_each_class():
    p, q = maps(2, 3, 4, 4), maps(2, 3, 4, 4, seed=1)
    mask = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(2)) > 0.5
    assert mse_consistency(p, q, mask).item() == pytest.approx((p - q)[mask].square().mean().item(), abs=1e-12)


def test_bounds_and_symmetry():
    p, q = torch.eye(2).double()[None].reshape(1, 2, 2), torch.eye(2).double().flip(0).reshape(1, 2, 2)
    assert mse_consistency(p, p).item() == 0
    assert mse_consistency(p, q).item() == 1
    a, b = maps(1, 3, 4, 4), maps(1, 3, 4, 4, seed=1)
    assert torch.equal(mse_consistency(a, b), mse_consistency(b, a))


def test_samples_count_alike():
    p, q = maps(3, 2, 4, 4), maps(3, 2, 4, 4, seed=1)
    singles = torch.stack([mse_consistency(p[i : i + 1], q[i : i + 1]) for i in range(3)])
    assert mse_consistency(p, q).item() == pytest.approx(singles.mean().item(), abs=1e-12)


def test_gradcheck():
    p, q = maps(2, 2, 3, 2).requires_grad_(), maps(2, 2, 3, 2, seed=1).requires_grad_()
    mask = torch.tensor([True, False, True])[None, None, :, None].expand(2, 1, 3, 2)
    assert torch.autograd.gradcheck(lambda a, b: mse_consistency(a, b, mask), (p, q))


def test_what_lies_outside_the_mask_has_no_influence():
    p, q = maps(1, 2, 4).requires_grad_(), maps(1, 2, 4, seed=1)
    mask = torch.tensor([[[True, True, False, False]]])
    expected = mse_consistency(p, q, mask)
    poisoned = p.detach().clone()
    poisoned[..., 2:] = float("nan")
    poisoned.requires_grad_()
    loss = mse_consistency(poisoned, q, mask)
    assert torch.equal(loss, expected)
    loss.backward()
    assert (poisoned.grad[..., 2:] == 0).all()


def test_no_valid_voxel_gives_a_zero_attached_to_the_graph():
    p = maps(1, 2, 4).requires_grad_()
    loss = mse_consistency(p, maps(1, 2, 4, seed=1), torch.zeros(1, 1, 4))
    assert loss.item() == 0
    loss.backward()
    assert (p.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_formats_are_computed_in_float32(dtype):
    p, q = maps(2, 3, 4, 4).to(dtype), maps(2, 3, 4, 4, seed=1).to(dtype)
    loss = mse_consistency(p, q)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(mse_consistency(p.double(), q.double()).item(), rel=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        mse_consistency(torch.rand(1, 2, 4), torch.rand(1, 3, 4))
    with pytest.raises(ValueError, match="mask"):
        mse_consistency(torch.rand(1, 2, 4), torch.rand(1, 2, 4), torch.ones(1, 3, 4))

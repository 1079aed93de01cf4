"""The soft Dice loss."""

from __future__ import annotations

import pytest
import torch

from nnunetv2_semisup.losses.dice import soft_dice_loss
from tests.losses.references import maps

pytestmark = pytest.mark.fast


def draw(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 2)])
@pytest.mark.parametrize("mask_channels", [None, 1, 3])
def test_equals_the_formula(shape, mask_channels):
    p, target = draw(2, 3, *shape), (draw(2, 3, *shape, seed=1) > 0.5).double()
    mask = None if mask_channels is None else draw(2, mask_channels, *shape, seed=2) > 0.4
    inside = torch.ones_like(p, dtype=torch.bool) if mask is None else mask.expand_as(p)
    scores = []
    for channel in range(3):
        chosen = inside[:, channel].numpy()
        a, b = p[:, channel].numpy()[chosen], target[:, channel].numpy()[chosen]
        scores.append((2 * (a * b).sum() + 1e-5) / (a.sum() + b.sum() + 1e-5))
    assert soft_dice_loss(p, target, mask).item() == pytest.approx(1 - sum(scores) / 3, abs=1e-12)


def test_bounds():
    target = (draw(2, 3, 4, 4) > 0.5).double()
    assert soft_dice_loss(target, target).item() == pytest.approx(0, abs=1e-12)
    assert soft_dice_loss(1 - target, target).item() == pytest.approx(1, abs=1e-5)
    assert soft_dice_loss(torch.zeros_like(target), torch.zeros_like(target)) == 0


def test_gradcheck():
    p, target = draw(2, 2, 3, 2).requires_grad_(), maps(2, 2, 3, 2, seed=1)
    mask = torch.tensor([True, False, True])[None, None, :, None].expand(2, 1, 3, 2)
    assert torch.autograd.gradcheck(lambda x: soft_dice_loss(x, target, mask), (p,))


def test_what_lies_outside_the_mask_has_no_influence_and_an_empty_mask_gives_an_attached_zero():
    p, target = draw(1, 2, 4), draw(1, 2, 4, seed=1)
    mask = torch.tensor([[[True, True, False, False]]])
    poisoned = p.clone()
    poisoned[..., 2:] = float("nan")
    assert torch.equal(soft_dice_loss(poisoned, target, mask), soft_dice_loss(p, target, mask))
    p.requires_grad_()
    nothing = soft_dice_loss(p, target, torch.zeros_like(mask))
    assert nothing == 0
    nothing.backward()
    assert (p.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_formats_are_computed_in_float32(dtype):
    p, target = draw(2, 3, 16, 16).to(dtype), draw(2, 3, 16, 16, seed=1).to(dtype)
    loss = soft_dice_loss(p, target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(soft_dice_loss(p.double(), target.double()).item(), rel=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        soft_dice_loss(draw(1, 2, 3), draw(1, 3, 3))
    with pytest.raises(ValueError, match="mask"):
        soft_dice_loss(draw(1, 3, 3), draw(1, 3, 3), torch.ones(1, 2, 3))

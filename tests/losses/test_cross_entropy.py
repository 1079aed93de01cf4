"""Cross-entropy against given maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunetv2_semisup.losses.cross_entropy import cross_entropy
from tests.losses.references import maps

pytestmark = pytest.mark.fast


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reference(logits, target, mask, weight, regions):
    """Voxel by voxel, from the formula."""
    logits, target, mask, weight = (x.numpy() for x in (logits, target, mask, weight))
    values = []
    for sample in range(len(logits)):
        for where in np.ndindex(*logits.shape[2:]):
            if not mask[(sample, 0, *where)]:
                continue
            z, t = logits[(sample, slice(None), *where)], target[(sample, slice(None), *where)]
            w = weight[(sample, slice(None), *where)]
            if regions:
                p = 1 / (1 + np.exp(-z))
                values += list(w * -(t * np.log(p) + (1 - t) * np.log(1 - p)))
            else:
                values.append(float(w[0] * -(t * np.log(np.exp(z) / np.exp(z).sum())).sum()))
    return np.mean(values)


@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 2)])
@pytest.mark.parametrize("regions", [False, True])
def test_equals_the_formula(shape, regions):
    logits, target = draw(2, 3, *shape), maps(2, 3, *shape, seed=1)
    mask = draw(2, 1, *shape, seed=2) > 0
    weight = draw(2, 3 if regions else 1, *shape, seed=3).abs()
    expected = reference(logits, target, mask, weight, regions)
    assert cross_entropy(logits, target, mask, weight, regions).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("regions", [False, True])
def test_equals_torch_without_mask_and_weight(regions):
    logits = draw(2, 3, 4, 4)
    if regions:
        target = (draw(2, 3, 4, 4, seed=1) > 0).double()
        expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    else:
        labels = torch.randint(3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
        target = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).double()
        expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(cross_entropy(logits, target, regions=regions), expected)


def test_closed_form_of_equal_logits():
    target = torch.eye(4)[None].double()
    assert cross_entropy(torch.zeros(1, 4, 4).double(), target).item() == pytest.approx(np.log(4))
    assert cross_entropy(torch.zeros(1, 4, 4).double(), target, regions=True).item() == pytest.approx(np.log(2))


def test_voxels_of_weight_0_stay_in_the_mean():
    logits, target = draw(1, 2, 4), maps(1, 2, 4, seed=1)
    half = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    expected = cross_entropy(logits[..., :2], target[..., :2]) / 2
    torch.testing.assert_close(cross_entropy(logits, target, weight=half), expected)
    torch.testing.assert_close(cross_entropy(logits, target, mask=half), 2 * expected)


def test_samples_count_alike():
    logits, target = draw(3, 2, 4, 4), maps(3, 2, 4, 4, seed=1)
    singles = torch.stack([cross_entropy(logits[i : i + 1], target[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(cross_entropy(logits, target), singles.mean())


@pytest.mark.parametrize("regions", [False, True])
def test_gradcheck(regions):
    logits, target = draw(2, 3, 3, 2).requires_grad_(), maps(2, 3, 3, 2, seed=1)
    mask = torch.tensor([True, False, True])[None, None, :, None].expand(2, 1, 3, 2)
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, target, mask, regions=regions), (logits,))


@pytest.mark.parametrize("regions", [False, True])
def test_an_empty_mask_and_extreme_logits_stay_finite(regions):
    logits = torch.tensor([[[1e4], [-1e4]]], dtype=torch.float16).requires_grad_()
    target = torch.tensor([[[0.0], [1.0]]])
    loss = cross_entropy(logits, target, regions=regions)
    assert loss.dtype == torch.float32
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    nothing = cross_entropy(torch.full((1, 2, 3), float("nan")).requires_grad_(), maps(1, 2, 3), torch.zeros(1, 1, 3))
    assert nothing == 0
    nothing.backward()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        cross_entropy(draw(1, 2, 3), draw(1, 3, 3))
    with pytest.raises(ValueError, match="mask"):
        cross_entropy(draw(1, 2, 3), draw(1, 2, 3), torch.ones(1, 1, 4))

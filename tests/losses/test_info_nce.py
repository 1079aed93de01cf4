"""InfoNCE against a double loop, its limits, what it is blind to and what it is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nnunetv2_semisup.losses.info_nce import info_nce
from tests.losses.references import noise

pytestmark = pytest.mark.fast

TAU = 0.07


def others(count):
    return ~torch.eye(count, dtype=torch.bool)


def embeddings(*shape, seed=0):
    """Of both signs, float64."""
    return 2 * noise(*shape, seed=seed) - 1


def brute_force(anchors, positives, negatives, apart, tau, norm, valid=None):
    """-log e^(q k / t) / (e^(q k / t) + sum e^(q n / t)), averaged over valid anchors."""
    order = 2 if norm == "L2" else 1
    q, k, n = (
        x.numpy() / np.linalg.norm(x.numpy(), order, axis=-1, keepdims=True) for x in (anchors, positives, negatives)
    )
    losses = []
    for b in range(len(q)):
        for i in range(q.shape[1]):
            if valid is not None and not valid[b, i]:
                continue
            against = apart[i] if apart.ndim == 2 else apart[b, i]
            total = np.exp(q[b, i] @ k[b, i] / tau)
            losses.append(-np.log(total))
            for m in range(n.shape[1]):
                if against[m]:
                    total += np.exp(q[b, i] @ n[b, m] / tau)
            losses[-1] += np.log(total)
    return np.mean(losses)


@pytest.mark.parametrize("norm", ["L2", "L1"])
@pytest.mark.parametrize("negatives", ["image", "patch", "own"])
@pytest.mark.parametrize("masked", [False, True])
def test_row03_equals_a_double_loop(norm, negatives, masked):
    a, p = embeddings(2, 5, 4), embeddings(2, 5, 4, seed=1)
    n = {"image": a, "patch": p, "own": embeddings(2, 7, 4, seed=2)}[negatives]
    apart = others(5) if negatives != "own" else noise(2, 5, 7, seed=3) > 0.4
    valid = noise(2, 5, seed=4) > 0.3 if masked else None
    expected = brute_force(a, p, n, apart, 0.5, norm, valid)
    assert info_nce(a, p, n, apart, 0.5, norm, valid).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_row03_gradcheck(norm):
    # Away from 0, where the L1 norm has its edges.
    a, p, n = ((0.2 + noise(2, 4, 3, seed=seed)).requires_grad_() for seed in range(3))
    valid = torch.tensor([[True, True, False, True], [True, True, True, True]])
    assert torch.autograd.gradcheck(lambda *x: info_nce(*x, others(4), 0.5, norm, valid), (a, p, n))


@pytest.mark.parametrize("cells", [25, 27])
def test_row02_indices_are_aligned(cells):
    """B7.5-2: one-hot keys; the right assignment is the floor of features that are not negative, a shift is not."""
    x = torch.eye(cells, dtype=torch.float64)[None]
    floor = math.log(1 + (cells - 1) * math.exp(-1 / TAU))
    assert info_nce(x, x, x, others(cells), TAU).item() == pytest.approx(floor, abs=1e-12)
    shifted = x.roll(1, dims=1)
    assert info_nce(x, shifted, x, others(cells), TAU).item() == pytest.approx(math.log(cells), abs=1e-5)
    assert info_nce(x, shifted, shifted, others(cells), TAU).item() == pytest.approx(1 / TAU, abs=1e-4)
    if cells == 25:
        assert floor == pytest.approx(1.5e-5, abs=1e-6)


@pytest.mark.parametrize("cells", [25, 512])
def test_row04_embeddings_that_are_all_alike_give_the_log_of_their_number(cells):
    x = embeddings(1, 1, 8).expand(1, cells, 8)
    assert info_nce(x, x, x, others(cells), TAU).item() == pytest.approx(math.log(cells), abs=1e-12)


@pytest.mark.parametrize("cells", [2, 8, 25])
def test_row05_the_least_is_that_of_a_regular_simplex(cells):
    simplex = (torch.eye(cells, dtype=torch.float64) - 1 / cells)[None]
    least = math.log(1 + (cells - 1) * math.exp(-(1 + 1 / (cells - 1)) / TAU))
    assert info_nce(simplex, simplex, simplex, others(cells), TAU).item() == pytest.approx(least, rel=1e-6)
    x = embeddings(1, cells, cells)
    assert info_nce(x, x, x, others(cells), TAU).item() > least


def test_row06_a_rotation_changes_nothing_under_l2_and_something_under_l1():
    a, p = embeddings(1, 6, 4), embeddings(1, 6, 4, seed=1)
    rotation, _ = torch.linalg.qr(embeddings(4, 4, seed=2))
    for norm, is_equal in (("L2", True), ("L1", False)):
        plain = info_nce(a, p, a, others(6), TAU, norm).item()
        turned = info_nce(a @ rotation, p @ rotation, a @ rotation, others(6), TAU, norm).item()
        assert (turned == pytest.approx(plain, abs=1e-9)) == is_equal


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_row07_length_does_not_count(norm):
    a, p = embeddings(2, 6, 4), embeddings(2, 6, 4, seed=1)
    longer, longer_p = ((0.5 + noise(2, 6, 1, seed=seed)) * x for seed, x in ((2, a), (3, p)))
    expected = info_nce(a, p, a, others(6), TAU, norm).item()
    assert info_nce(longer, longer_p, longer, others(6), TAU, norm).item() == pytest.approx(expected, abs=1e-9)


def test_row08_the_order_of_cells_does_not_count_and_images_are_apart():
    a, p = embeddings(2, 6, 4).requires_grad_(), embeddings(2, 6, 4, seed=1)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    loss = info_nce(a, p, a, others(6), TAU)
    turned = info_nce(a[:, order], p[:, order], a[:, order], others(6), TAU)
    assert turned.item() == pytest.approx(loss.item(), abs=1e-12)
    singles = [info_nce(a[i : i + 1], p[i : i + 1], a[i : i + 1], others(6), TAU) for i in range(2)]
    assert torch.stack(singles).mean().item() == pytest.approx(loss.item(), abs=1e-12)
    (gradient,) = torch.autograd.grad(singles[0], a)
    assert gradient[0].abs().sum() > 0
    assert (gradient[1] == 0).all()


def test_row15_embeddings_of_length_0_stay_finite():
    a = torch.zeros(1, 4, 3, requires_grad=True)
    p = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    loss = info_nce(a, p, a, others(4), TAU)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(4))
    assert torch.isfinite(a.grad).all()


def test_what_does_not_count_has_no_influence():
    a, p = embeddings(1, 5, 4), embeddings(1, 5, 4, seed=1)
    valid = torch.tensor([[True, True, False, True, False]])
    apart = others(5) & valid
    expected = info_nce(a, p, a, apart, TAU, valid=valid)
    assert expected.item() == pytest.approx(
        info_nce(a[:, valid[0]], p[:, valid[0]], a[:, valid[0]], others(3), TAU).item(), abs=1e-12
    )
    poisoned = a.masked_fill(~valid[..., None], torch.nan).requires_grad_()
    loss = info_nce(poisoned, p.masked_fill(~valid[..., None], torch.nan), poisoned, apart, TAU, valid=valid)
    assert loss.item() == expected.item()
    loss.backward()
    assert (poisoned.grad[~valid] == 0).all()
    assert torch.isfinite(poisoned.grad).all()


def test_empty_cases():
    a, p = embeddings(1, 3, 4).requires_grad_(), embeddings(1, 3, 4, seed=1)
    # Nobody to stand against: nothing to learn.
    alone = info_nce(a, p, a, torch.zeros(3, 3, dtype=torch.bool), TAU)
    assert alone.item() == 0
    nobody = info_nce(a, p, a, others(3), TAU, valid=torch.zeros(1, 3, dtype=torch.bool))
    assert nobody.item() == 0
    for loss in (alone, nobody):
        (gradient,) = torch.autograd.grad(loss, a)
        assert (gradient == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_formats_are_computed_in_float32(dtype):
    a, p = embeddings(2, 6, 4).to(dtype), embeddings(2, 6, 4, seed=1).to(dtype)
    loss = info_nce(a, p, a, others(6), TAU)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(info_nce(a.double(), p.double(), a.double(), others(6), TAU).item(), rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert info_nce(a.float(), p.float(), a.float(), others(6), TAU).item() == pytest.approx(loss.item(), rel=1e-6)


def test_what_does_not_fit_is_refused():
    a = torch.zeros(1, 3, 4)
    with pytest.raises(ValueError, match="every anchor needs a positive"):
        info_nce(a, a[:, :2], a, others(3), TAU)
    with pytest.raises(ValueError, match="need apart"):
        info_nce(a, a, a, others(4), TAU)

"""Contrast of voxels against class means: formulas, closed forms, symmetries, and what absent classes do."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from nnunetv2_semisup.losses.local_contrast import (
    class_means,
    class_voxels,
    draw_anchors,
    inter_contrast,
    intra_contrast,
    voxel_vectors,
)

pytestmark = pytest.mark.fast

TEMPERATURE = 0.1
N = 3
SHAPE = (5, 6)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels(batch, classes, shape=SHAPE, seed=0, absent=()):
    """Random classes with unknown voxels; `absent` are (sample, class) that are unknown instead."""
    drawn = torch.randint(-1, classes, (batch, *shape), generator=torch.Generator().manual_seed(seed))
    for sample, k in absent:
        drawn[sample][drawn[sample] == k] = -1
    return drawn


def contrast(z, classes, count, form, pairs=((0, 1),), index=None, least=1, temperature=TEMPERATURE, reduce=None):
    """The loss as the method composes it, of embeddings [B, D, *S]."""
    voxels = class_voxels(classes, count)
    index = draw_anchors(voxels, N, torch.Generator().manual_seed(5)) if index is None else index
    anchors, means, present = voxel_vectors(z, index), class_means(z, voxels), voxels.size >= least
    if form == "intra":
        return intra_contrast(anchors, means, present, temperature, reduce)
    return inter_contrast(anchors, means, present, pairs, temperature, reduce)


def reference(z, classes, count, form, pairs, index):
    """Loops over rows, classes, anchors and positives, from the formula alone."""
    z, classes = z.detach().numpy().reshape(len(z), z.shape[1], -1), classes.numpy().reshape(len(z), -1)

    def mean(image, k):
        inside = classes[image] == k
        return z[image][:, inside].mean(axis=1) if inside.any() else None

    def s(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b) / TEMPERATURE

    rows = [(image, (image,)) for image in range(len(z))]
    if form == "inter":
        rows = [(here, (here, there)) for a, b in pairs for here, there in ((a, b), (b, a))]
    means_of_rows = []
    for image, compared in rows:
        terms = []
        for k in range(count):
            if any(mean(other, k) is None for other in compared):
                continue
            for voxel in index[image, k].tolist():
                a = z[image][:, voxel]
                assert classes[image, voxel] == k
                exps = [
                    math.exp(s(a, mean(other, c)))
                    for other, c in product(compared, range(count))
                    if mean(other, c) is not None
                ]
                terms += [-math.log(math.exp(s(a, mean(other, k))) / sum(exps)) for other in compared]
        if terms:
            means_of_rows.append(np.mean(terms))
    return 2 * np.mean(means_of_rows) if means_of_rows else 0.0


ABSENT = {
    "all": [],
    "one": [(0, 1)],
    "the same": [(0, 1), (1, 1)],
    "different": [(0, 1), (1, 2), (2, 0)],
    "most": [(0, 1), (0, 2), (1, 0), (1, 1)],
    "none": [(b, k) for b in range(3) for k in range(3)],
}


@pytest.mark.parametrize("form", ["intra", "inter"])
@pytest.mark.parametrize("shape", [(30,), (5, 6), (2, 3, 5)])
@pytest.mark.parametrize("absent", ABSENT)
def test_equals_the_formula(form, shape, absent):
    z, classes, pairs = normal(3, 4, *shape), labels(3, 3, shape, absent=ABSENT[absent]), [(0, 1), (1, 2)]
    index = draw_anchors(class_voxels(classes, 3), N, torch.Generator().manual_seed(5))
    expected = reference(z, classes, 3, form, pairs, index)
    assert contrast(z, classes, 3, form, pairs).loss.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("form", ["intra", "inter"])
@pytest.mark.parametrize("absent", ["all", "different", "most"])
def test_gradcheck(form, absent):
    z, classes = normal(3, 2, 9).requires_grad_(), labels(3, 3, (9,), seed=1, absent=ABSENT[absent])
    assert torch.autograd.gradcheck(
        lambda x: contrast(x, classes, 3, form, [(0, 1), (1, 2)], temperature=0.5).loss, (z,)
    )


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_equal_embeddings_give_the_logarithm_of_the_number_of_means(classes):
    z, y = torch.ones(2, 4, 40, dtype=torch.float64), torch.arange(40).remainder(classes).expand(2, -1)
    for form, means in (("intra", classes), ("inter", 2 * classes)):
        found = contrast(z, y, classes, form)
        assert found.loss.item() / 2 == pytest.approx(math.log(means), abs=1e-12)
        assert found.excess.item() == pytest.approx(1, abs=1e-6)
        assert (found.positive.item(), found.negative.item()) == pytest.approx((1, 1))


def test_the_optimum_is_a_regular_simplex():
    """methods: row 3, at three classes and temperature 0.1."""
    simplex = torch.eye(3, dtype=torch.float64) - 1 / 3
    y = torch.arange(30).remainder(3).expand(2, -1)
    z = simplex[y].movedim(-1, 1)
    rest = math.log(1 + 2 * math.exp(-3 / (2 * TEMPERATURE)))
    assert rest == pytest.approx(6.1e-7, rel=0.01)
    assert contrast(z, y, 3, "intra").loss.item() / 2 == pytest.approx(rest, rel=1e-6)
    found = contrast(z, y, 3, "inter")
    assert found.loss.item() / 2 == pytest.approx(math.log(2) + rest, abs=1e-12)
    assert found.excess.item() == pytest.approx(0, abs=1e-6)
    assert (found.positive.item(), found.negative.item()) == pytest.approx((1, -0.5))


@pytest.mark.parametrize("form", ["intra", "inter"])
def test_rotation_and_scale_of_an_image_change_nothing(form):
    z, classes = normal(2, 4, *SHAPE), labels(2, 3)
    expected = contrast(z, classes, 3, form).loss
    rotation, _ = torch.linalg.qr(normal(4, 4, seed=3))
    turned = torch.einsum("bd...,de->be...", z, rotation)
    scaled = z * torch.tensor([0.1, 7.0]).view(2, 1, 1, 1)
    for changed in (turned, scaled):
        torch.testing.assert_close(contrast(changed, classes, 3, form).loss, expected)


@pytest.mark.parametrize("form", ["intra", "inter"])
def test_gradients_are_orthogonal_to_the_embeddings_of_an_image_as_a_whole(form):
    """Euler's relation of a function that does not depend on the scale; single voxels may be pulled along."""
    z = normal(2, 4, *SHAPE).requires_grad_()
    contrast(z, labels(2, 3), 3, form).loss.backward()
    per_voxel = (z * z.grad).sum(1).flatten(1)
    assert per_voxel.sum(1).abs().max() < 1e-12
    assert per_voxel.abs().max() > 1e-4


@pytest.mark.parametrize("form", ["intra", "inter"])
def test_order_of_images_classes_and_voxels_does_not_matter(form):
    z, classes = normal(2, 4, 30), labels(2, 3, (30,))
    index = draw_anchors(class_voxels(classes, 3), N, torch.Generator().manual_seed(5))
    expected = contrast(z, classes, 3, form, index=index).loss
    torch.testing.assert_close(contrast(z.flip(0), classes.flip(0), 3, form, index=index.flip(0)).loss, expected)
    renamed = torch.where(classes < 0, -1, 2 - classes)
    torch.testing.assert_close(contrast(z, renamed, 3, form, index=index.flip(1)).loss, expected)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    moved = order.argsort()[index]
    torch.testing.assert_close(contrast(z[..., order], classes[..., order], 3, form, index=moved).loss, expected)


def test_pairs_count_alike_and_one_without_a_shared_class_does_not_count():
    z, classes = normal(4, 3, 30), labels(4, 3, (30,), absent=[(3, 0), (3, 1), (3, 2)])
    pairs = [(0, 1), (1, 2)]
    single = [contrast(z, classes, 3, "inter", [pair]).loss for pair in pairs]
    together = contrast(z, classes, 3, "inter", [*pairs, (2, 3)]).loss
    torch.testing.assert_close(together, torch.stack(single).mean())


def test_a_class_missing_in_one_image_is_a_negative_where_it_is():
    z = normal(2, 4, *SHAPE).requires_grad_()
    classes = labels(2, 3, absent=[(0, 2)])
    contrast(z, classes, 3, "inter").loss.backward()
    assert torch.isfinite(z.grad).all()
    assert z.grad[1].abs().sum(0)[classes[1] == 2].min() > 0
    assert (z.grad.abs().sum(1)[classes < 0] == 0).all()


@pytest.mark.parametrize("form", ["intra", "inter"])
def test_nothing_to_contrast_gives_a_zero_attached_to_the_graph(form):
    z = normal(2, 4, *SHAPE).requires_grad_()
    found = contrast(z, torch.full((2, *SHAPE), -1), 3, form)
    assert found.loss == 0
    assert all(torch.isnan(part) for part in found[1:])
    found.loss.backward()
    assert (z.grad == 0).all()


def test_one_class_alone_teaches_nothing_within_an_image_and_has_a_floor_between_two():
    z, classes = normal(2, 4, *SHAPE).requires_grad_(), labels(2, 1)
    intra = contrast(z, classes, 1, "intra").loss
    assert intra == 0
    assert (torch.autograd.grad(intra, z)[0] == 0).all()
    assert contrast(z, classes, 1, "inter").loss.item() / 2 >= math.log(2)


@pytest.mark.parametrize("form", ["intra", "inter"])
def test_what_belongs_to_no_class_has_no_influence(form):
    z, classes = normal(2, 4, *SHAPE), labels(2, 3)
    poisoned = torch.where((classes < 0).unsqueeze(1), torch.nan, z).requires_grad_()
    found = contrast(poisoned, classes, 3, form).loss
    assert torch.equal(found, contrast(z, classes, 3, form).loss)
    found.backward()
    assert (poisoned.grad.movedim(1, -1)[classes < 0] == 0).all()


@pytest.mark.parametrize("form", ["intra", "inter"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_formats_are_computed_in_float32(form, dtype):
    z, classes = normal(2, 4, *SHAPE).to(dtype).requires_grad_(), labels(2, 3)
    loss = contrast(z, classes, 3, form).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(contrast(z.double(), classes, 3, form).loss.item(), rel=1e-4)
    loss.backward()
    assert z.grad.dtype == dtype
    assert z.grad.abs().sum() > 0


def test_sums_over_millions_of_half_precision_voxels_keep_their_precision():
    """A sum of 2 x 10^6 ones is infinite in float16, and the matrix of memberships does not fit one chunk."""
    classes = torch.zeros(1, 2_000_000, dtype=torch.int64)
    classes[0, ::4] = 2
    features = torch.ones(1, 1, 2_000_000, dtype=torch.float16)
    features[0, 0, ::4] = 0.25
    means = class_means(features, class_voxels(classes, 3))
    assert means.flatten().tolist() == [1.0, 0.0, 0.25]


def test_class_means_equal_a_loop_and_so_do_their_gradients():
    z, classes = normal(2, 4, 3, 3, 3).requires_grad_(), labels(2, 3, (3, 3, 3), absent=[(0, 1)])
    weight = normal(2, 3, 4, seed=2)
    means = class_means(z, class_voxels(classes, 3))
    expected = torch.zeros(2, 3, 4, dtype=torch.float64)
    for b, k in product(range(2), range(3)):
        if (classes[b] == k).any():
            expected[b, k] = z[b][:, classes[b] == k].mean(1)
    torch.testing.assert_close(means, expected)
    ours, theirs = (torch.autograd.grad((m * weight).sum(), z)[0] for m in (means, expected))
    torch.testing.assert_close(ours, theirs)


def test_anchors_are_drawn_uniformly_from_their_class_by_the_generator_alone():
    classes = torch.tensor([[-1, 0, 1, 0, -1, 0, 0, 1], [2] * 8])
    voxels = class_voxels(classes, 3)
    state = torch.get_rng_state()
    index = draw_anchors(voxels, 4000, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(index, draw_anchors(voxels, 4000, torch.Generator().manual_seed(0)))
    for sample, k, inside in ((0, 0, [1, 3, 5, 6]), (0, 1, [2, 7]), (1, 2, list(range(8)))):
        counts = index[sample, k].bincount(minlength=8)
        assert counts[inside].sum() == 4000
        assert (counts[inside] / 4000 - 1 / len(inside)).abs().max() < 0.03


def test_a_reduction_over_processes_averages_over_the_pairs_of_all():
    z, classes = normal(4, 3, 30), labels(4, 3, (30,))
    index = draw_anchors(class_voxels(classes, 3), N, torch.Generator().manual_seed(5))
    whole = contrast(z, classes, 3, "inter", [(0, 1), (2, 3)], index=index).loss
    sums = []
    for half in (slice(0, 2), slice(2, 4)):
        contrast(z[half], classes[half], 3, "inter", index=index[half], reduce=lambda x: (sums.append(x), x)[1])
    total = contrast(z[:2], classes[:2], 3, "inter", index=index[:2], reduce=lambda x: torch.stack(sums).sum(0)).loss
    torch.testing.assert_close(total, whole)

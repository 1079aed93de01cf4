"""Boundary-aware information maximisation: what is true of it and of no other method."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from nnunetv2_semisup.data.contrast import gamma_contrast
from nnunetv2_semisup.data.geometry import Geometry, Move, draw_geometry
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.losses.boundary import boundary_loss, released_boundary_loss
from nnunetv2_semisup.losses.edges import edge_map
from nnunetv2_semisup.losses.entropy import shannon_entropy
from nnunetv2_semisup.losses.regularised_information import regularised_mi_loss
from nnunetv2_semisup.networks.features import forward_with_features
from nnunetv2_semisup.regularizers import bim
from tests.regularizers.toy_step import build, facts_of, network_of, outline_of, random_views, step_of

pytestmark = pytest.mark.fast

STILL = {"rotation": 0.0, "scale": [1.0, 1.0], "translation": 0.0, "gamma": [1.0, 1.0]}


def toy(changes=None, dim=3, **facts):
    network = network_of(dim)
    values = {"clusters": {"count": 6, "sub_heads": 2, "in_turn": False}} | (changes or {})
    return network, build("bimpretrain", facts_of(network, dim, **facts), values)


@pytest.mark.parametrize("form", ["masked", "released"])
def test_terms_are_the_losses_of_the_two_views_that_undergo_the_same(form, monkeypatch):
    """By hand, for a known geometry: features of the first view moved, the second view moved before the network."""
    geometry = Geometry(3, (Move(flips=(-1,)), Move()))
    monkeypatch.setattr(bim, "draw_geometry", lambda *_, **__: geometry)
    network, regularizer = toy({"boundary": {"form": form}, "transform": STILL})
    first, second = random_views()
    outcome = regularizer(step_of(network, regularizer, (first, second)))

    image = geometry(second)
    ours, theirs = (forward_with_features(network, x, [-1])[1][0] for x in (first, image))
    edges, valid = edge_map(image, (1.0, 1.0, 1.0), 0.75, torch.ones_like(image[:, :1], dtype=torch.bool))
    information, boundary = [], []
    for head in regularizer.heads:
        z1, z2 = head(geometry(ours)), head(theirs)
        information.append(regularised_mi_loss(z1, z2, alpha=0.5))
        for z in (z1, z2):
            entropy = shannon_entropy(z)[:, None]
            boundary.append(
                boundary_loss(entropy, edges, (2, 2, 2), valid, 0.1)
                if form == "masked"
                else released_boundary_loss(entropy, image, 0.75)
            )
    torch.testing.assert_close(outcome.terms["information"], torch.stack(information).mean())
    torch.testing.assert_close(outcome.terms["boundary"], torch.stack(boundary).mean())


def test_both_views_learn():
    network, regularizer = toy({"transform": STILL})
    views = tuple(view.requires_grad_() for view in random_views())
    terms = regularizer(step_of(network, regularizer, views)).terms
    gradients = torch.autograd.grad(terms["information"], views)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_what_an_affine_brings_in_from_outside_counts_in_neither_term(monkeypatch):
    """Two geometries that differ outside the valid part alone: shifts, seen through other values outside."""
    seen = []

    def seeing(image, spacing, gamma, mask):
        seen.append(mask)
        return edge_map(image, spacing, gamma, mask)

    monkeypatch.setattr(bim, "edge_map", seeing)
    network, regularizer = toy({"transform": STILL | {"translation": 0.3}})
    regularizer(step_of(network, regularizer, random_views()))
    (mask,) = seen
    assert mask.dtype == torch.bool
    assert 0.2 < mask.float().mean() < 0.95


def test_a_weight_of_0_leaves_a_term_out_and_its_sign_in():
    outcomes = []
    for weight in (0.0, 1.0):
        network, regularizer = toy({"boundary": {"weight": weight}})
        outcomes.append(regularizer(step_of(network, regularizer, random_views())))
    without, with_both = outcomes
    assert without.terms.keys() == {"information"}
    assert without.signs["boundary_correlation"] == -with_both.terms["boundary"].detach() > 0


def test_signs_of_uniform_and_of_collapsed_clusters():
    network, regularizer = toy()
    step = step_of(network, regularizer, random_views())
    with torch.no_grad():
        for head in regularizer.heads:
            head.layers.weight.zero_()
            head.layers.bias.zero_()
    uniform = regularizer(step).signs
    assert uniform["marginal_entropy"] == pytest.approx(1, abs=1e-5)
    assert uniform["nats"] == pytest.approx(0, abs=1e-5)
    assert uniform["used"] == 1
    assert uniform["stability"] == pytest.approx(1 / 6, abs=1e-5)
    assert regularizer.alarms({name: float(value) for name, value in uniform.items()}) == []
    with torch.no_grad():
        for head in regularizer.heads:
            head.layers.bias[0] = 50
    collapsed = regularizer(step).signs
    assert collapsed["used"] == pytest.approx(1 / 6)
    (alarm,) = regularizer.alarms({name: float(value) for name, value in collapsed.items()})
    assert "collapsed" in alarm


def test_mutual_information_of_two_equal_views_grows_with_training():
    network, regularizer = toy({"boundary": {"weight": 0.0}, "transform": STILL}, mirror_axes=())
    view, _ = random_views()
    optimizer = torch.optim.AdamW([*network.parameters(), *regularizer.parameters()], lr=1e-2)
    nats = []
    for _ in range(40):
        outcome = regularizer(step_of(network, regularizer, (view, view)))
        optimizer.zero_grad()
        outcome.terms["information"].backward()
        optimizer.step()
        nats.append(float(outcome.signs["nats"]))
    assert nats[-1] > 0.1 > 10 * nats[0]
    assert nats[-1] <= math.log(6) + 1e-5


def test_at_coarser_taps_no_voxel_counts_into_which_the_affine_mixes_zeros_from_outside(monkeypatch):
    masks, geometries = [], []

    def seeing_edges(image, spacing, gamma, mask):
        masks.append(mask)
        return edge_map(image, spacing, gamma, mask)

    def seeing_geometry(*args, **kwargs):
        geometries.append(draw_geometry(*args, **kwargs))
        return geometries[-1]

    monkeypatch.setattr(bim, "edge_map", seeing_edges)
    monkeypatch.setattr(bim, "draw_geometry", seeing_geometry)
    network, regularizer = toy({"clusters": {"count": 6, "sub_heads": 1, "tap": -2}, "boundary": {"flat": 1e-3}})
    for seed in range(5):
        outcome = regularizer(step_of(network, regularizer, random_views(), seed=seed))
        assert all(torch.isfinite(term) for term in outcome.terms.values())
        inside = geometries[-1](torch.ones(2, 1, 8, 8, 8))
        assert masks[-1].shape == inside.shape
        assert 0 < masks[-1].float().mean() < 1
        assert inside[masks[-1]].min() > 0.999


def test_anisotropic_plans_turn_in_plane_and_take_flat_windows():
    _, regularizer = toy(spacing=(6.0, 1.5, 1.5), in_plane=True)
    assert regularizer.settings.boundary.radius == [0, 2, 2]
    assert regularizer._affine.in_plane


def test_impossible_settings_are_refused():
    _, regularizer = toy()
    outline = replace(outline_of(regularizer.facts), level_voxels=(2, 64, 512, 4096))
    type(regularizer).check(regularizer.settings, outline)
    deep = regularizer.settings.model_copy(
        update={"clusters": regularizer.settings.clusters.model_copy(update={"tap": 0})}
    )
    with pytest.raises(SemiSupervisedError, match=r"clusters.count = 6 .* has 4 voxels at clusters.tap = 0"):
        type(regularizer).check(deep, outline)
    flat = regularizer.settings.model_copy(
        update={"boundary": regularizer.settings.boundary.model_copy(update={"radius": [2, 2]})}
    )
    with pytest.raises(SemiSupervisedError, match=r"boundary.radius = \[2, 2\] is not allowed: the patch has 3 axes"):
        type(regularizer).check(flat, outline)
    with pytest.raises(SemiSupervisedError, match=r"transform.translation = 0.5 is not allowed; .* < 0.5"):
        toy({"transform": {"translation": 0.5}})
    with pytest.raises(SemiSupervisedError, match=r"transform.scale needs two numbers, the smaller first"):
        toy({"transform": {"scale": [1.2, 0.9]}})


def test_gamma_keeps_range_and_order_and_leaves_constants_alone():
    x = torch.randn(2, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    x[1, 1] = 3
    y = gamma_contrast(x, [0.5, 2.0])
    for axis in range(2):
        torch.testing.assert_close(y[0, axis].amin(), x[0, axis].amin())
        torch.testing.assert_close(y[0, axis].amax(), x[0, axis].amax())
        assert torch.equal(y[0, axis].flatten().argsort(), x[0, axis].flatten().argsort())
    assert torch.equal(y[1, 1], x[1, 1])
    torch.testing.assert_close(gamma_contrast(x, [1.0, 1.0]), x)
    assert F.l1_loss(y[0], x[0]) > 0.05


def test_a_joint_of_all_processes_is_what_counts():
    network, regularizer = toy({"boundary": {"weight": 0.0}})
    step = step_of(network, regularizer, random_views())
    once = regularizer(step).terms["information"]
    doubled = regularizer(replace(step, generator=torch.Generator().manual_seed(0), reduce=lambda joint: 2 * joint))
    torch.testing.assert_close(doubled.terms["information"], once)


def test_sub_heads_in_turn_are_on_average_all_of_them():
    network, together = toy({"clusters": {"count": 6, "sub_heads": 3, "in_turn": False}, "transform": STILL})
    _, in_turn = toy({"clusters": {"count": 6, "sub_heads": 3, "in_turn": True}, "transform": STILL})
    views = random_views()
    expected = together(step_of(network, together, views)).terms
    turns = [in_turn(step_of(network, in_turn, views, number=number)).terms for number in (4, 5, 6)]
    for name, term in expected.items():
        torch.testing.assert_close(torch.stack([terms[name] for terms in turns]).mean(), term)
    assert turns[0]["information"] != turns[1]["information"]


@pytest.mark.parametrize("voxels", [1, 600, 10**6])
def test_slabs_of_any_thickness_give_the_same_terms_and_gradients(voxels, monkeypatch):
    network, regularizer = toy({"transform": STILL})
    views = random_views()

    def gradients():
        network.zero_grad()
        terms = regularizer(step_of(network, regularizer, views)).terms
        sum(terms.values()).backward()
        return [*terms.values(), *(p.grad.clone() for p in network.encoder.parameters())]

    expected = gradients()
    monkeypatch.setattr(bim, "SLAB_VOXELS", voxels)
    torch.testing.assert_close(gradients(), expected)


@pytest.mark.parametrize(("device", "slabs"), [("cpu", 128), ("meta", 16)])
def test_a_patch_of_nnunets_own_size_takes_few_slabs_where_kernels_must_be_started(device, slabs):
    patch = torch.empty(1, 1, 128, 128, 128, device=device)
    assert len(torch.split(patch, bim._slab_planes(patch), dim=2)) == slabs

"""Cross-level contrast and consistency: what is true of it and of no other method."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nnunetv2_semisup.configuration.sources import merged, preset
from nnunetv2_semisup.data.cells import place_cells
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.losses.info_nce import info_nce
from nnunetv2_semisup.networks.features import forward_with_features
from nnunetv2_semisup.regularizers.crosslevel import MOST_SITES, CrossLevel
from nnunetv2_semisup.training import facts as training_facts
from nnunetv2_semisup.training import preflight
from nnunetv2_semisup.training.run_log import read_log
from tests.regularizers.toy_step import build, facts_of, labeled_batch, network_of, outline_of, random_views, step_of
from tests.workspace import TINY

fast = pytest.mark.fast

CONTRAST = {"consistency": {"weight": 0.0}}
CONSISTENCY = {"contrast": {"weight": 0.0}}
PAPER = {
    "phases": {"form": "contrast_first"},
    "views": {"form": "same", "labeled": True},
    "contrast": {"sites": "cells", "weight": 1.0},
}


def toy(changes=None, dim=3, network=None, **facts):
    network = network or network_of(dim)
    return network, build("crosslevel", facts_of(network, dim, **facts), changes)


def views_for(regularizer, dim=3):
    return random_views(dim)[: len(regularizer.views)]


def levels(network, regularizer, views):
    """Logits and features of the patches, and of each cell of the other view by itself."""
    facts = regularizer.facts
    cells = place_cells(facts.patch_size, facts.levels.strides[0], (2,) * facts.dim)
    with torch.no_grad():
        whole = forward_with_features(network, views[0], (-1,))
        parts = [forward_with_features(network, cell(views[-1]), (-1,)) for cell in cells]
    return cells, whole, parts


@fast
@pytest.mark.parametrize("has_regions", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_row10_consistency_is_the_mean_over_the_mosaic_of_cells(has_regions, dim):
    """B7.5-10, on a grid that does not overlap: the mean squared difference of stitched and whole prediction."""
    network, regularizer = toy(CONSISTENCY, dim, has_regions=has_regions)
    views = views_for(regularizer, dim)
    outcome = regularizer(step_of(network, regularizer, views))
    cells, (whole, _), parts = levels(network, regularizer, views)
    mosaic = torch.zeros_like(whole)
    for cell, (logits, _) in zip(cells, parts, strict=True):
        mosaic[(..., *(slice(a, a + n) for a, n in zip(cell.start, cell.edge, strict=True)))] = logits
    p, q = (x.sigmoid() if has_regions else x.softmax(1) for x in (mosaic, whole))
    torch.testing.assert_close(outcome.terms["consistency"], (p - q).square().mean())
    assert outcome.terms.keys() == {"consistency"}


@fast
@pytest.mark.parametrize("margin", [0, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_consistency_of_cells_that_overlap_counts_every_valid_voxel_of_every_cell(margin, masked):
    changes = merged(CONSISTENCY, {"consistency": {"margin": margin}})
    # Three bottleneck voxels along the last axis.
    network, regularizer = toy(changes, patch_size=(16, 16, 12))
    views = tuple(view[..., :12].contiguous() for view in views_for(regularizer))
    valid = torch.ones(2, 1, 16, 16, 12, dtype=torch.bool)
    if masked:
        valid[0, ..., :5] = False
    outcome = regularizer(step_of(network, regularizer, views, valid=valid if masked else None))
    cells, (whole, _), parts = levels(network, regularizer, views)
    total = count = 0.0
    for cell, (logits, _) in zip(cells, parts, strict=True):
        squares = (logits.softmax(1) - cell(whole).softmax(1)).square().mean(1)
        inside = cell(valid)[:, 0].clone()
        for axis, (a, n, size) in enumerate(zip(cell.start, cell.edge, (16, 16, 12), strict=True)):
            along = inside.transpose(1, 1 + axis)
            if a > 0:
                along[:, :margin] = False
            if a + n < size:
                along[:, n - margin :] = False
        total += squares[inside].sum().item()
        count += inside.sum().item()
    assert outcome.terms["consistency"].item() == pytest.approx(total / count, rel=1e-4)


@fast
@pytest.mark.parametrize("negatives", ["image", "patch"])
@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_contrast_by_loops(negatives, norm):
    """Sites of overlapping cells, embedded one by one, each against everything that shares no voxel with it."""
    changes = merged(CONTRAST, {"contrast": {"negatives": negatives, "norm": norm, "sites": 0}})
    network, regularizer = toy(changes, patch_size=(16, 16, 12))
    views = tuple(view[..., :12].contiguous() for view in views_for(regularizer))
    outcome = regularizer(step_of(network, regularizer, views))
    cells, (_, (features,)), parts = levels(network, regularizer, views)
    stride = regularizer.facts.levels.strides[0]

    def embeddings(maps, start, edge):
        """Corner in the patch, and embedding, of each site of these maps."""
        for corner in product(*(range(0, n, step) for n, step in zip(edge, stride, strict=True))):
            box = maps[(..., *(slice(a, a + step) for a, step in zip(corner, stride, strict=True)))]
            x = regularizer.head(box.flatten(2).mean(2)[..., None])[:, 0].detach().double().numpy()
            x = x / np.linalg.norm(x, 2 if norm == "L2" else 1, axis=1, keepdims=True)
            yield tuple(a + b for a, b in zip(corner, start, strict=True)), x

    patch = list(embeddings(features, (0, 0, 0), (16, 16, 12)))
    keys = [
        site for cell, (_, (own,)) in zip(cells, parts, strict=True) for site in embeddings(own, cell.start, cell.edge)
    ]
    against = patch if negatives == "image" else keys
    losses = []
    for corner, key in keys:
        (anchor,) = (x for other, x in patch if other == corner)
        positive = np.exp((anchor * key).sum(1) / 0.07)
        rest = sum(np.exp((anchor * x).sum(1) / 0.07) for other, x in against if other != corner)
        losses.append(-np.log(positive / (positive + rest)))
    assert outcome.terms["contrast"].item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert len(keys) > len(patch), "cells overlap"


@fast
def test_one_embedding_for_each_cell():
    network, regularizer = toy(merged(CONTRAST, {"contrast": {"sites": "cells"}}))
    views = views_for(regularizer)
    outcome = regularizer(step_of(network, regularizer, views))
    cells, (_, (features,)), parts = levels(network, regularizer, views)
    patch, keys = (
        regularizer.head(torch.stack(means, dim=-1))
        for means in (
            [cell(features).flatten(2).mean(2) for cell in cells],
            [own.flatten(2).mean(2) for _, (own,) in parts],
        )
    )
    expected = info_nce(patch, keys, patch, ~torch.eye(8, dtype=torch.bool), 0.07)
    torch.testing.assert_close(outcome.terms["contrast"], expected)


@fast
def test_cells_that_share_voxels_are_no_negatives_of_each_other():
    """Two cells along each axis, overlapping along the last: of seven others, six share nothing with a cell."""
    network, regularizer = toy(merged(CONTRAST, {"contrast": {"sites": "cells"}}), patch_size=(16, 16, 12))
    views = tuple(torch.zeros_like(view[..., :12]) for view in views_for(regularizer))
    with torch.no_grad():
        for parameter in regularizer.head.parameters():
            parameter.zero_()
        regularizer.head.layers[-1].bias.fill_(1)
    outcome = regularizer(step_of(network, regularizer, views))
    assert outcome.terms["contrast"].item() == pytest.approx(math.log(7), rel=1e-5)
    assert outcome.signs["share_of_chance"].item() == pytest.approx(1, rel=1e-5)


@fast
@pytest.mark.parametrize("negatives", ["image", "patch"])
def test_row08_and_09_who_learns_from_what(negatives):
    """B7.5-8 and 9: the contrast reaches the patch of its own image alone, the consistency the cells alone."""
    network, regularizer = toy({"contrast": {"negatives": negatives}})
    step, outputs = step_of(network, regularizer, views_for(regularizer)), []

    def student(x, taps):
        logits, features = forward_with_features(network, x, taps)
        outputs.append((logits, features[0]))
        return logits, features

    terms = regularizer(replace(step, student=student)).terms
    (logits, features), *cells = outputs
    assert len(cells) == 8
    of_contrast = torch.autograd.grad(terms["contrast"], [features, *(f for _, f in cells)], allow_unused=True)
    assert of_contrast[0].flatten(1).abs().sum(1).gt(0).all()
    assert all(gradient is None for gradient in of_contrast[1:])
    of_consistency = torch.autograd.grad(terms["consistency"], [logits, *(x for x, _ in cells)], allow_unused=True)
    assert of_consistency[0] is None
    assert all(gradient.abs().sum() > 0 for gradient in of_consistency[1:])


class Pointwise(nn.Module):
    """Sees each voxel by itself."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features, self.logits = nn.Conv3d(2, 4, 1), nn.Conv3d(4, 3, 1)

    def forward(self, x, taps):
        features = self.features(x).sin()
        return self.logits(features), [features]


@fast
@pytest.mark.parametrize("form", ["same", "weak_to_strong"])
def test_row11_a_pointwise_network_agrees_with_itself_on_the_same_view(form):
    """B7.5-11. With views of their own the levels differ by their intensities."""
    _, regularizer = toy({"views": {"form": form}})
    views = views_for(regularizer)
    step = replace(step_of(network_of(), regularizer, views), student=Pointwise())
    outcome = regularizer(step)
    is_same = form == "same"
    assert (outcome.terms["consistency"].item() < 1e-12) == is_same
    assert (outcome.signs["positive_cosine"].item() > 1 - 1e-6) == is_same
    assert (outcome.signs["agreement"].item() == 1) == is_same


@fast
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_row12_cells_one_after_the_other_give_the_gradients_of_all_at_once(dim, batch):
    """B7.5-12, under instance normalisation: settled cell by cell, against one batch of all cells."""
    network, regularizer = toy(CONSISTENCY, dim)
    views = tuple(view[:batch] for view in views_for(regularizer, dim))
    step = step_of(network, regularizer, views)
    alive = []

    def settle(name, part):
        assert name == "consistency"
        part.backward()
        alive.append(part.requires_grad)
        return part.detach()

    outcome = regularizer(replace(step, settle=settle))
    # On a CPU a single sample is slow, so that two cells of one go together.
    assert len(alive) == 2**dim * batch // 2
    assert not outcome.terms["consistency"].requires_grad
    ours = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    cells, (whole, _), _ = levels(network, regularizer, views)
    logits, _ = forward_with_features(network, torch.cat([cell(views[1]) for cell in cells]), ())
    target = torch.cat([cell(whole) for cell in cells])
    loss = (logits.softmax(1) - target.softmax(1)).square().mean()
    loss.backward()
    torch.testing.assert_close(outcome.terms["consistency"], loss.detach())
    theirs = [p.grad for p in network.parameters() if p.grad is not None]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@fast
def test_row13_contrast_first_then_consistency_both_on_labelled_patches_too():
    """B7.5-13, the paper's form."""
    network = network_of()
    _, regularizer = toy(PAPER, network=network, num_epochs=30)
    assert regularizer.gradient_views == 1
    views = views_for(regularizer)
    assert len(views) == 1
    for epoch in range(3, 30):
        step, seen = step_of(network, regularizer, views, progress=epoch / 30), []

        def student(x, taps, seen=seen):
            seen.append((x, torch.is_grad_enabled()))
            return forward_with_features(network, x, taps)

        outcome = regularizer(replace(step, student=student))
        assert outcome.terms.keys() == {"contrast" if epoch < 10 else "consistency"}
        assert all(term.requires_grad for term in outcome.terms.values())
        # The patch carries a gradient in the first phase, its cells in the second.
        assert [gradient for _, gradient in seen] == [epoch < 10] + [epoch >= 10] * 8
        assert torch.equal(seen[0][0], torch.cat([views[0], step.labeled.images]))
        assert regularizer.alarms({name: float(value) for name, value in outcome.signs.items()}) is not None
        if epoch in (3, 10):
            (term,) = outcome.terms.values()
            term.backward()
        if epoch == 4:  # one of each is enough for the middle
            assert outcome.signs.keys() == set(regularizer.sign_names)
    assert {"foreground", "agreement"} == outcome.signs.keys()


@fast
def test_labelled_patches_count_as_wholly_valid():
    network, regularizer = toy({"views": {"labeled": True}})
    nothing = torch.zeros(2, 1, 16, 16, 16, dtype=torch.bool)
    step = step_of(network, regularizer, views_for(regularizer), valid=nothing)
    with_padding = regularizer(step).terms
    images = step.labeled.images
    alone = toy({"views": {"form": "same"}})[1]
    alone.load_state_dict(regularizer.state_dict())
    expected = alone(step_of(network, alone, (images,))).terms
    for name in expected:
        torch.testing.assert_close(with_padding[name], expected[name])


def refused(changes, **outline):
    settings = CrossLevel.Settings.parse(merged(preset("crosslevel"), changes), origin="test")
    with pytest.raises(SemiSupervisedError) as error:
        CrossLevel.check(settings, replace(outline_of(facts_of(network_of())), **outline))
    assert "\n" not in str(error.value)
    return str(error.value)


def plan(patch_size, *strides):
    """What an outline says of a patch and strides, bottleneck first."""
    voxels = tuple(math.prod(n // s for n, s in zip(patch_size, stride, strict=True)) for stride in strides)
    return {"patch_size": patch_size, "level_strides": strides, "level_voxels": voxels}


@fast
def test_row14_what_leaves_nothing_to_compare_is_refused_with_the_reason():
    """B7.5-14: stride, bottleneck, cells, sites, margin, phases."""
    cubes = ((8,) * 3, (4,) * 3, (2,) * 3, (1,) * 3)
    good = plan((32, 32, 32), *cubes)
    _, regularizer = toy()
    CrossLevel.check(regularizer.settings, replace(outline_of(regularizer.facts), **good))
    assert "no multiple of the stride" in refused({}, **plan((36, 32, 32), *cubes))
    assert "a single cell, the patch itself" in refused({}, **plan((8, 8, 8), *cubes))
    assert "one voxel at the bottleneck" in refused({}, **plan((16, 16, 16), *cubes))
    assert "cells.per_axis = [2, 2] is not allowed: a patch has 3 axes" in refused(
        {"cells": {"per_axis": [2, 2]}}, **good
    )
    message = refused({"cells": {"per_axis": [1, 1, 1]}}, **good)
    assert "cells.per_axis = [1, 1, 1]" in message
    message = refused({"consistency": {"margin": 16}}, **good)
    assert "consistency.margin = 16 is not allowed" in message
    assert "up to 15" in message
    odd = plan((24, 24, 24), *cubes)
    assert "every two cells of these plans share voxels" in refused({"contrast": {"sites": "cells"}}, **odd)
    assert "contrast.sites: 1 is not allowed" in refused({"contrast": {"sites": 1}}, **good)
    assert "contrast.sites: -4 is not allowed" in refused({"contrast": {"sites": -4}}, **good)
    message = refused({"contrast": {"sites": -1}}, **good)
    assert f"has {32**3} sites there" in message
    assert "4.0 GB" in message
    changes = {"contrast": {"sites": -1, "weight": 0.0}}
    CrossLevel.check(toy(changes)[1].settings, replace(outline_of(regularizer.facts), **good))
    assert "phases.form" in refused(merged(CONTRAST, {"phases": {"form": "contrast_first"}}), **good)


@fast
@pytest.mark.parametrize(
    ("patch_size", "strides", "level", "per_axis"),
    [
        ((24, 40, 48), ((4, 8, 8), (4, 4, 4), (2, 2, 2), (1, 1, 1)), -3, [2, 2, 2]),
        ((128, 128, 128), ((32,) * 3, (16,) * 3, (8,) * 3, (4,) * 3, (2,) * 3, (1,) * 3), -5, [2, 2, 2]),
        ((14, 256, 224), ((1, 32, 32), (1, 16, 16), (1, 8, 8), (1, 4, 4), (1, 2, 2), (1, 1, 1)), 0, [1, 2, 2]),
        ((512, 448), ((128, 64), (64, 64), (32, 32), (16, 16), (8, 8), (4, 4), (2, 2), (1, 1)), -5, [2, 2]),
    ],
)
def test_auto_takes_the_coarsest_level_with_enough_sites(patch_size, strides, level, per_axis):
    network = network_of(len(patch_size))
    facts = facts_of(network, len(patch_size), patch_size=patch_size)
    facts = replace(facts, levels=replace(facts.levels, channels=(4,) * len(strides), strides=strides))
    resolved = build("crosslevel", facts).settings
    assert resolved.contrast.sites == level
    assert resolved.cells.per_axis == per_axis
    CrossLevel.check(resolved, outline_of(facts))
    voxels = outline_of(facts).level_voxels
    assert 256 <= voxels[level] <= MOST_SITES
    assert level == 0 or voxels[level - 1] < 256


def test_refused_before_anything_is_written_and_any_other_plan_is_not(in_toy):
    results = in_toy.root / "results"
    before = sorted(results.rglob("*"))
    plans = in_toy.plans()
    plans["configurations"]["3d_fullres"]["patch_size"] = [8, 8, 8]
    with pytest.raises(SemiSupervisedError, match="one voxel at the bottleneck"):
        in_toy.trainer("nnUNetTrainerCrossLevel", plans=plans, plans_name="no_cells")
    assert sorted(results.rglob("*")) == before
    trainer = in_toy.trainer("nnUNetTrainerCrossLevel", plans_name="cells")
    trainer.initialize()
    (regularizer,) = trainer._regularizers
    assert regularizer.facts.num_epochs == trainer.num_epochs == 1000
    assert trainer.settings.contrast.sites != "auto"
    assert trainer.settings.cells.per_axis != "auto"


def test_a_training_in_the_papers_form_has_both_phases_one_after_the_other(in_toy):
    """In three epochs: the warm-up, one with the contrast alone, one with the consistency alone."""
    trainer = in_toy.trainer("nnUNetTrainerCrossLevel", merged(TINY, PAPER), plans_name="paper")
    trainer.run_training()
    warmup, first, second = read_log(trainer.run_log.file)
    assert not warmup["raw/contrast"]
    assert not warmup["raw/consistency"]
    for row, on, off in ((first, "contrast", "consistency"), (second, "consistency", "contrast")):
        assert float(row[f"raw/{on}"]) > 0
        assert float(row[f"grad/{on}"]) > 0
        assert not row[f"raw/{off}"]
    # Labelled patches beside the unlabelled ones, patch and cells, in two epochs of two steps. In the first phase the
    # patch carries the gradient, in the second its cells; here cells do not overlap.
    assert trainer.cost.samples - 3 * 2 * 2 == 2 * 2 * 2 * 4
    assert trainer.cost.gradient_samples - 3 * 2 * 2 == 2 * 2 * 4


def test_the_outline_says_of_patch_and_strides_what_the_network_says(in_toy):
    trainer = in_toy.trainer("nnUNetTrainerLabeledOnly", plans_name="outline")
    trainer.initialize()
    found = training_facts.facts_of(trainer)
    outline = preflight.outline_of(in_toy.plans(), "3d_fullres", trainer.dataset_json)
    assert outline.patch_size == found.patch_size
    assert outline.level_strides == found.levels.strides


@fast
def test_two_input_shapes_are_two_graphs_however_many_cells_and_steps():
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    network, regularizer = toy()
    student = partial(torch.compile(forward_with_features, backend=backend, fullgraph=True), network)
    for seed in range(3):
        step = replace(step_of(network, regularizer, random_views(seed=seed)), student=student)
        sum(regularizer(step).terms.values()).backward()
    assert len(graphs) == 2


@fast
def test_a_live_contrast_rises_above_chance_and_says_nothing():
    network, regularizer = toy(CONTRAST)
    step = step_of(network, regularizer, views_for(regularizer))
    optimizer = torch.optim.AdamW([*network.parameters(), *regularizer.parameters()], lr=1e-3)
    shares = []
    for _ in range(15):
        outcome = regularizer(step)
        optimizer.zero_grad()
        outcome.terms["contrast"].backward()
        optimizer.step()
        shares.append(float(outcome.signs["share_of_chance"]))
    assert shares[-1] < shares[0] <= 1
    assert outcome.signs["positive_cosine"] > outcome.signs["negative_cosine"]


@fast
def test_collapsed_and_solved_contrasts_are_said_in_words():
    _, regularizer = toy()
    healthy = {
        "foreground": 0.2, "agreement": 0.8, "positive_cosine": 0.8, "negative_cosine": 0.1, "share_of_chance": 0.4,
    }  # fmt: skip
    assert regularizer.alarms(healthy) == []
    (alarm,) = regularizer.alarms(healthy | {"share_of_chance": 0.01, "positive_cosine": 0.99})
    assert "solved" in alarm
    assert "views.form" in alarm
    (alarm,) = regularizer.alarms(healthy | {"share_of_chance": 0.99, "positive_cosine": 1.0, "negative_cosine": 0.99})
    assert "collapsed" in alarm
    (alarm,) = regularizer.alarms(healthy | {"foreground": 0.0})
    assert "consistency.weight" in alarm


@fast
def test_collapsed_embeddings_are_seen_in_the_signs():
    network, regularizer = toy()
    with torch.no_grad():
        regularizer.head.layers[-1].weight.zero_()
    signs = regularizer(step_of(network, regularizer, views_for(regularizer))).signs
    assert signs["share_of_chance"].item() == pytest.approx(1, rel=1e-4)
    assert signs["negative_cosine"].item() == pytest.approx(1, rel=1e-4)
    assert any("collapsed" in alarm for alarm in regularizer.alarms({k: float(v) for k, v in signs.items()}))


@fast
def test_agreement_is_the_overlap_of_the_foregrounds_on_all_cells():
    network, regularizer = toy()
    with torch.no_grad():
        network.decoder.seg_layers[-1].weight *= 40
    views = views_for(regularizer)
    signs = regularizer(step_of(network, regularizer, views)).signs
    cells, (whole, _), parts = levels(network, regularizer, views)
    ours = torch.cat([(logits.argmax(1) > 0).flatten() for logits, _ in parts])
    theirs = torch.cat([(cell(whole).argmax(1) > 0).flatten() for cell in cells])
    expected = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
    assert signs["agreement"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert 0.05 < expected < 0.999
    assert signs["foreground"].item() == pytest.approx((whole.argmax(1) > 0).float().mean().item(), rel=1e-5)


@fast
def test_weights_of_0_leave_terms_heads_and_gradients_out():
    network, regularizer = toy(CONSISTENCY)
    assert not list(regularizer.parameters())
    assert regularizer.gradient_views == 1
    step, gradients = step_of(network, regularizer, views_for(regularizer)), []

    def student(x, taps):
        gradients.append(torch.is_grad_enabled())
        return forward_with_features(network, x, taps)

    regularizer(replace(step, student=student))
    assert gradients == [False] + [True] * 8
    assert toy()[1].gradient_views == 2


@fast
def test_cosines_are_means_over_pairs():
    network, regularizer = toy(merged(CONTRAST, {"contrast": {"sites": "cells"}, "views": {"form": "same"}}))
    views = views_for(regularizer)
    signs = regularizer(step_of(network, regularizer, views, labeled=labeled_batch(regularizer.facts))).signs
    cells, (_, (features,)), parts = levels(network, regularizer, views)
    patch = regularizer.head(torch.stack([cell(features).flatten(2).mean(2) for cell in cells], dim=-1))
    keys = regularizer.head(torch.stack([own.flatten(2).mean(2) for _, (own,) in parts], dim=-1))
    similar = [F.cosine_similarity(patch[b, i], keys[b, i], dim=0) for b in range(2) for i in range(8)]
    different = [
        F.cosine_similarity(patch[b, i], patch[b, j], dim=0)
        for b, i, j in product(range(2), range(8), range(8))
        if i != j
    ]
    torch.testing.assert_close(signs["positive_cosine"], torch.stack(similar).mean().detach())
    torch.testing.assert_close(signs["negative_cosine"], torch.stack(different).mean().detach())

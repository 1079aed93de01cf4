"""Local contrast: what is true of it and of no other method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.losses.local_contrast import (
    class_means,
    class_voxels,
    draw_anchors,
    inter_contrast,
    intra_contrast,
    voxel_vectors,
)
from nnunetv2_semisup.networks.ema import make_teacher
from nnunetv2_semisup.networks.features import forward_with_features
from nnunetv2_semisup.regularizers.localcontrast import pairs_of
from tests.regularizers.toy_step import (
    build,
    facts_of,
    labeled_batch,
    network_of,
    outline_of,
    pseudo_label,
    random_views,
    step_of,
)

pytestmark = pytest.mark.fast

ROUNDS = {"contrast": {"pseudo_labels": "rounds"}}


def stored_step(changes: dict[str, Any] = ROUNDS, stored: torch.Tensor | None = None, **options: Any) -> Any:
    """Network, regularizer and a step with stored pseudo-labels; `options` are of the step or the facts."""
    network = network_of()
    of_facts = {key: options.pop(key) for key in ("has_regions", "ignore_label", "regions") if key in options}
    regularizer = build("localcontrast", facts_of(network, **of_facts), changes)
    views = random_views()[: len(regularizer.views)]
    return network, regularizer, step_of(network, regularizer, views, stored=stored, **options)


def by_hand(network, regularizer, step, pseudo, truth, count, shift, form="inter"):
    """The term composed of the losses, with dense embeddings in place of embedded means."""
    generator = torch.Generator().manual_seed(0)
    _, (features,) = forward_with_features(network, step.views[-1], (-1,))
    parts = []
    for maps, classes in ((features, pseudo), (step.labeled.features, truth)):
        voxels = class_voxels(classes - shift, count)
        embedded = regularizer.head.embed(regularizer.head(maps).movedim(1, -1)).movedim(-1, 1)
        index = draw_anchors(voxels, regularizer.settings.contrast.anchors, generator)
        parts.append((voxel_vectors(embedded, index), class_means(embedded, voxels), voxels.size >= 8))
    anchors, means, present = (torch.cat(values) for values in zip(*parts, strict=True))
    if form == "intra":
        return intra_contrast(anchors, means, present, 0.1).loss
    return inter_contrast(anchors, means, present, [(0, 2), (1, 3), (0, 1), (2, 3)], 0.1).loss


@pytest.mark.parametrize("form", ["inter", "intra"])
@pytest.mark.parametrize("background", [True, False])
def test_the_term_is_the_contrast_of_dense_embeddings(form, background):
    changes = {"contrast": {"pseudo_labels": "rounds", "form": form, "background": background}}
    network, regularizer, step = stored_step(changes)
    count, shift = (3, 0) if background else (2, 1)
    term = regularizer(step).terms["contrast"]
    expected = by_hand(network, regularizer, step, step.pseudo_label, step.labeled.target, count, shift, form)
    torch.testing.assert_close(term, expected)
    parameters = [*network.parameters(), *regularizer.parameters()]
    ours, theirs = (torch.autograd.grad(x, parameters, retain_graph=True, allow_unused=True) for x in (term, expected))
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_online_pseudo_labels_are_the_teachers_answers_on_the_plain_view():
    network, teacher = network_of(), make_teacher(network_of(seed=1))
    regularizer = build("localcontrast", facts_of(network))
    assert regularizer.views == ("plain", "stock")
    step = step_of(network, regularizer, random_views(), teacher=teacher)
    pseudo = forward_with_features(teacher, step.views[0], ())[0].argmax(1, keepdim=True)
    assert len(pseudo.unique()) == 3
    expected = by_hand(network, regularizer, step, pseudo, step.labeled.target, 2, 1)
    torch.testing.assert_close(regularizer(step).terms["contrast"], expected)


def test_of_regions_each_voxel_belongs_to_the_last_that_holds_it():
    network, regularizer, step = stored_step(has_regions=True)
    # The regions are (1, 2), (1,) and (2,), so that none is left of the first alone.
    pseudo = torch.where(step.pseudo_label > 0, step.pseudo_label + 1, step.pseudo_label)
    truth = torch.zeros_like(step.labeled.target[:, :1])
    for number in (1, 2, 3):
        truth = torch.where(step.labeled.target[:, number - 1 : number] > 0, number, truth)
    expected = by_hand(network, regularizer, step, pseudo, truth, 3, 1)
    torch.testing.assert_close(regularizer(step).terms["contrast"], expected)


def test_poisoned_pseudo_labels_reach_the_features_and_never_the_segmentation():
    for seed in (1, 2):
        garbage = torch.randint(3, (2, 1, 16, 16, 16), generator=torch.Generator().manual_seed(seed))
        network, regularizer, step = stored_step(stored=garbage)
        seen = []
        student = step.student
        step = replace(step, student=lambda x, taps, s=student, seen=seen: (seen.append(s(x, taps)), seen[0])[1])
        term = regularizer(step).terms["contrast"]
        logits, (features,) = seen[0]
        layers = list(network.decoder.seg_layers.parameters())
        found = torch.autograd.grad(term, [features, logits, *layers], allow_unused=True)
        assert found[0].abs().sum() > 0
        assert all(gradient is None for gradient in found[1:])


def test_labels_outside_the_image_do_not_count():
    valid = torch.ones(2, 1, 16, 16, 16, dtype=torch.bool)
    valid[..., 10:] = False
    facts = facts_of(network_of())
    stored = pseudo_label(facts, 2)
    changed = torch.where(valid, stored, 2 - stored.clamp_min(0))
    first, second = (stored_step(stored=labels, valid=valid) for labels in (stored, changed))
    ours, theirs = first[1](first[2]), second[1](second[2])
    assert torch.equal(ours.terms["contrast"], theirs.terms["contrast"])
    assert all(torch.equal(ours.signs[name], theirs.signs[name]) for name in ours.signs)


def test_ignored_voxels_do_not_count():
    network = network_of()
    facts = facts_of(network, ignore_label=3)
    labeled = labeled_batch(facts)
    labeled.target[..., 10:] = 3
    network, regularizer, step = stored_step(ignore_label=3, labeled=labeled)
    truth = torch.where(labeled.target == 3, -1, labeled.target)
    expected = by_hand(network, regularizer, step, step.pseudo_label, truth, 2, 1)
    torch.testing.assert_close(regularizer(step).terms["contrast"], expected)


@pytest.mark.parametrize("background", [True, False])
def test_pseudo_labels_of_background_alone_leave_the_labelled_patches_and_raise_an_alarm(background):
    changes = {"contrast": {"pseudo_labels": "rounds", "background": background}}
    stored = torch.zeros(2, 1, 16, 16, 16, dtype=torch.int16)
    network, regularizer, step = stored_step(changes, stored)
    outcome = regularizer(step)
    unlabeled = forward_with_features(network, step.views[0], (-1,))[1][0].detach().requires_grad_()
    step = replace(
        step,
        student=lambda x, taps: (torch.zeros(2, 3, 16, 16, 16), [unlabeled]),
        generator=torch.Generator().manual_seed(0),
    )
    term = regularizer(step).terms["contrast"]
    torch.testing.assert_close(term, outcome.terms["contrast"])
    at_unlabeled, at_labeled = torch.autograd.grad(term, [unlabeled, step.labeled.features])
    assert (at_unlabeled == 0).all()
    assert at_labeled.abs().sum() > 0
    alarms = regularizer.alarms({name: float(value) for name, value in outcome.signs.items()})
    assert any("no pseudo-label has any foreground" in alarm for alarm in alarms)


def test_background_joins_where_there_is_one_other_class_alone():
    network = network_of()
    for structures, expected in ((1, True), (2, False)):
        facts = replace(facts_of(network), n_structures=structures)
        assert build("localcontrast", facts).settings.contrast.background is expected
    assert build("localcontrast", facts, {"contrast": {"background": True}}).settings.contrast.background is True


@pytest.mark.parametrize(
    ("changes", "outline", "words"),
    [
        ({"contrast": {"background": False}}, {"n_structures": 1}, "contrast.background = False is not allowed"),
        ({"embedding": {"width": 4096}}, {}, "would take 17 GB, and the device has 1 GB"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(changes, outline, words):
    regularizer = build("localcontrast", facts_of(network_of()), changes)
    usual_outline = replace(outline_of(regularizer.facts), level_voxels=(8, 64**3), memory=10**9)
    with pytest.raises(SemiSupervisedError, match=words) as error:
        type(regularizer).check(regularizer.settings, replace(usual_outline, **outline))
    assert "\n" not in str(error.value)
    usual = build("localcontrast", facts_of(network_of())).settings
    type(regularizer).check(usual, usual_outline)


@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {"anchors": 0}, {"form": "both"}, {"least_voxels": 0}])
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(SemiSupervisedError, match=f"contrast.{next(iter(changes))}"):
        build("localcontrast", facts_of(network_of()), {"contrast": changes})


def test_pairs_of_every_kind():
    assert pairs_of(1, 1) == [(0, 1)]
    assert pairs_of(3, 2) == [(0, 3), (1, 4), (2, 3), (0, 1), (3, 4)]
    assert pairs_of(1, 4) == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (3, 4)]


def test_the_signs_tell_a_living_contrast_from_a_dead_one():
    network, regularizer, step = stored_step()
    optimizer = torch.optim.AdamW([*network.parameters(), *regularizer.parameters()], lr=1e-2)
    # Labels that can be told apart: left and right.
    halves = torch.ones(2, 1, 16, 16, 16, dtype=torch.int16)
    halves[..., 8:] = 2
    first = {}
    for _ in range(30):
        labeled = replace(labeled_batch(regularizer.facts), images=step.views[0], target=halves)
        step = step_of(network, regularizer, step.views, stored=halves, labeled=labeled)
        outcome = regularizer(step)
        first = first or outcome.signs
        optimizer.zero_grad()
        outcome.terms["contrast"].backward()
        optimizer.step()
    last = outcome.signs
    assert last["classes"] == 1
    assert last["excess"] < min(first["excess"], 0.5)
    assert last["positive"] - last["negative"] > first["positive"] - first["negative"]
    dead = {"foreground": 0.3, "pseudo_foreground": 0.3, "classes": 1, "positive": 0.9, "negative": 0.9, "excess": 1.0}
    (alarm,) = regularizer.alarms(dead)
    assert "alike" in alarm
    assert not regularizer.alarms(dead | {"excess": 0.3, "negative": 0.1})
    (alarm,) = regularizer.alarms(dead | {"classes": 0.0, "excess": float("nan")})
    assert "contrast.least_voxels" in alarm

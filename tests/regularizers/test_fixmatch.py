"""FixMatch: what is true of it and of no other method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nnunetv2_semisup.losses.cross_entropy import cross_entropy
from nnunetv2_semisup.losses.dice import soft_dice_loss
from nnunetv2_semisup.networks.ema import make_teacher
from nnunetv2_semisup.networks.features import forward_with_features
from tests.regularizers.toy_step import build, facts_of, labeled_batch, network_of, random_views, step_of

pytestmark = pytest.mark.fast

UNMIXED = {"mixing": {"share": 0.0}}
LABELED_ONLY = {"mixing": {"exchange": 1.0}}


def weak_strong(has_regions=False, threshold=0.5, changes=UNMIXED):
    network = network_of()
    facts = facts_of(network, has_regions=has_regions)
    regularizer = build("fixmatch", facts, changes | {"pseudo_label": {"threshold": threshold}})
    return network, make_teacher(network_of(seed=1)), regularizer


@pytest.mark.parametrize("has_regions", [False, True])
def test_without_mixing_the_terms_are_those_of_the_strong_view_against_confident_answers_on_the_weak(has_regions):
    network, teacher, regularizer = weak_strong(has_regions)
    weak, strong = random_views()
    outcome = regularizer(step_of(network, regularizer, (weak, strong), teacher=teacher))
    with torch.no_grad():
        teacher_logits = forward_with_features(teacher, weak, ())[0]
    logits = forward_with_features(network, strong, ())[0]
    if has_regions:
        confident = (teacher_logits.sigmoid() - 0.5).abs() >= 0
        target, p = (teacher_logits > 0).float(), logits.sigmoid()
        dice = soft_dice_loss(p, target, confident)
    else:
        confident = teacher_logits.softmax(1).amax(1, keepdim=True) >= 0.5
        target = torch.nn.functional.one_hot(teacher_logits.argmax(1), 3).movedim(-1, 1).float()
        dice = soft_dice_loss(logits.softmax(1)[:, 1:], target[:, 1:], confident)
        assert 0 < confident.float().mean() < 1
    entropy = cross_entropy(logits, target, weight=confident.float(), regions=has_regions)
    torch.testing.assert_close(outcome.terms["pseudo_cross_entropy"], entropy)
    torch.testing.assert_close(outcome.terms["pseudo_dice"], dice)
    torch.testing.assert_close(outcome.signs["confident"], confident.float().mean())


@pytest.mark.parametrize("has_regions", [False, True])
def test_exchanged_boxes_bring_their_own_labels_whatever_the_threshold(has_regions):
    network, teacher, regularizer = weak_strong(has_regions, threshold=1.0, changes=LABELED_ONLY)
    step = step_of(network, regularizer, random_views(), teacher=teacher)
    seen = []
    student = step.student
    step = replace(step, student=lambda x, taps: (seen.append(x), student(x, taps))[1])
    outcome = regularizer(step)
    mixed, strong = seen[0], step.views[1]
    from_label = (mixed == step.labeled.images).all(1, keepdim=True)
    assert torch.equal(torch.where(from_label, step.labeled.images, strong), mixed)
    assert 0.1 < from_label.float().mean() < 0.9
    # No pseudo-label is that confident, so what is learnt comes from the labelled voxels.
    truth, _ = regularizer.facts.truth(step.labeled.target, 3)
    logits = forward_with_features(network, mixed, ())[0]
    expected = cross_entropy(logits, truth, weight=from_label.float(), regions=has_regions)
    torch.testing.assert_close(outcome.terms["pseudo_cross_entropy"], expected)


def test_voxels_without_a_label_teach_nothing():
    network, teacher, _ = weak_strong()
    facts = facts_of(network, ignore_label=3)
    regularizer = build("fixmatch", facts, LABELED_ONLY | {"pseudo_label": {"threshold": 1.0}})
    step = step_of(network, regularizer, random_views(), teacher=teacher, labeled=labeled_batch(facts, value=3))
    assert all(term == 0 for term in regularizer(step).terms.values())


@pytest.mark.parametrize("has_regions", [False, True])
def test_boxes_come_from_labelled_patches_that_are_mostly_annotated(has_regions):
    network = network_of()
    facts = facts_of(network, has_regions=has_regions, ignore_label=3)
    regularizer = build("fixmatch", facts, LABELED_ONLY)
    sparse, dense = labeled_batch(facts).target.split(1)
    if has_regions:  # the channel behind the regions marks what is not annotated
        sparse, dense = (torch.cat([row, torch.zeros_like(row[:, :1])], dim=1) for row in (sparse, dense))
        sparse[:, 3:, 2:] = 1
    else:
        sparse[:, :, 2:] = 3
    labeled = replace(labeled_batch(facts), target=torch.cat([sparse, dense]))
    step = step_of(network, regularizer, random_views(), labeled=labeled)
    seen = []
    student = step.student
    regularizer(replace(step, student=lambda x, taps: (seen.append(x), student(x, taps))[1]))
    shares = [(seen[0] == image).all(1).float().mean() for image in labeled.images[:, None]]
    assert shares[0] == 0
    assert shares[1] > 0.1


def test_more_unlabelled_than_labelled_patches():
    network, teacher, regularizer = weak_strong(changes=LABELED_ONLY)
    step = step_of(network, regularizer, random_views(batch=3), teacher=teacher)
    assert all(torch.isfinite(term) for term in regularizer(step).terms.values())


def test_no_confident_voxel_raises_an_alarm():
    *_, regularizer = weak_strong()
    (alarm,) = regularizer.alarms({"foreground": 0.1, "agreement": 0.5, "confident": 0.0})
    assert "pseudo_label.threshold" in alarm

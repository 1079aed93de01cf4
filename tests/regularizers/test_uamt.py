"""Uncertainty-aware mean teacher: what is true of it and of no other method."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nnunetv2_semisup.networks.ema import make_teacher
from nnunetv2_semisup.networks.features import forward_with_features
from tests.regularizers.toy_step import build, facts_of, network_of, random_views, step_of

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("has_regions", [False, True])
def test_without_noise_and_flips_certainty_is_that_of_the_plain_prediction(has_regions):
    network = network_of()
    with torch.no_grad():
        network.decoder.seg_layers[-1].weight *= 8
    teacher = make_teacher(network)
    facts = facts_of(network, mirror_axes=(), has_regions=has_regions)
    changes = {"uncertainty": {"noise": 0.0, "start": 0.5, "end": 0.5}}
    regularizer = build("uamt", facts, changes)
    views = random_views()
    outcome = regularizer(step_of(network, regularizer, views, teacher=teacher))
    target = facts.probabilities(forward_with_features(teacher, views[0], ())[0])
    p = facts.probabilities(forward_with_features(network, views[1], ())[0])
    if has_regions:
        entropy = -(target * target.log() + (1 - target) * (1 - target).log()) / math.log(2)
    else:
        entropy = -(target * target.log()).sum(1, keepdim=True) / math.log(3)
    certain = (entropy < 0.5).expand_as(p)
    assert 0.02 < certain.float().mean() < 0.98
    torch.testing.assert_close(outcome.terms["consistency"], (p - target).square()[certain].mean())
    # The mean of equal passes is rounded, which moves a voxel or two across the threshold.
    assert outcome.signs["certain"].item() == pytest.approx((entropy < 0.5).float().mean().item(), abs=1e-3)


@pytest.mark.parametrize("passes", [1, 4])
def test_the_teacher_makes_one_pass_for_the_target_and_these_for_the_uncertainty(passes):
    network = network_of()
    regularizer = build("uamt", facts_of(network), {"uncertainty": {"passes": passes}})
    step = step_of(network, regularizer, random_views())
    seen = []
    teacher = step.teacher
    regularizer(replace(step, teacher=lambda x, taps: (seen.append(x), teacher(x, taps))[1]))
    assert len(seen) == 1 + passes
    assert torch.equal(seen[0], step.views[0])
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_the_threshold_rises_from_start_to_end():
    regularizer = build("uamt", facts_of(network_of()))
    values = [regularizer._threshold(progress) for progress in (0, 0.5, 0.9, 1)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(0.75, abs=0.01)
    assert values[-1] == 1


def test_a_teacher_that_is_sure_of_nothing_raises_an_alarm_and_gives_an_attached_zero():
    network = network_of()
    regularizer = build("uamt", facts_of(network), {"uncertainty": {"start": 0.0, "end": 0.0}})
    outcome = regularizer(step_of(network, regularizer, random_views()))
    assert outcome.terms["consistency"] == 0
    assert outcome.terms["consistency"].requires_grad
    (alarm,) = regularizer.alarms({"foreground": 0.1, "agreement": 0.5, "certain": float(outcome.signs["certain"])})
    assert "uncertainty.start" in alarm

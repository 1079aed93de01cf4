"""Entropy minimisation: what is true of it and of no other method."""

import math
from dataclasses import replace

import pytest
import torch

from nnunetv2_semisup.networks.features import forward_with_features
from tests.regularizers.toy_step import build, facts_of, network_of, random_views, step_of

pytestmark = pytest.mark.fast


def outcome_of(logits: torch.Tensor, valid: torch.Tensor | None = None, has_regions: bool = False):
    """The outcome of a student that answers with these logits."""
    regularizer = build("entropymin", facts_of(network_of(), has_regions=has_regions))
    view = torch.zeros(logits.shape[0], 1, *logits.shape[2:])
    return regularizer(
        replace(step_of(network_of(), regularizer, (view,), valid), student=lambda images, taps: (logits, []))
    )


@pytest.mark.parametrize("has_regions", [False, True])
def test_the_term_is_the_entropy_of_the_first_view_as_a_share_of_its_maximum(has_regions):
    network = network_of()
    regularizer = build("entropymin", facts_of(network, has_regions=has_regions))
    views = random_views()
    logits = forward_with_features(network, views[0], ())[0]
    if has_regions:
        p = logits.sigmoid()
        expected = -(p * p.log() + (1 - p) * (1 - p).log()).mean() / math.log(2)
    else:
        p = logits.softmax(dim=1)
        expected = -(p * p.log()).sum(dim=1).mean() / math.log(p.shape[1])
    torch.testing.assert_close(regularizer(step_of(network, regularizer, views[:1])).terms["entropy"], expected)


def test_it_asks_for_one_view_and_no_teacher():
    regularizer = build("entropymin", facts_of(network_of()))
    assert (regularizer.views, regularizer.gradient_views, regularizer.ema_decay) == (("stock",), 1, None)


@pytest.mark.parametrize("has_regions", [False, True])
def test_an_undecided_network_has_entropy_1_and_a_decided_one_0(has_regions):
    undecided = outcome_of(torch.zeros(2, 4, 8, 8, 8), has_regions=has_regions)
    torch.testing.assert_close(undecided.terms["entropy"], torch.tensor(1.0))
    torch.testing.assert_close(undecided.signs["confidence"], torch.tensor(0.5 if has_regions else 0.25))
    logits = torch.full((2, 4, 8, 8, 8), -50.0)
    logits[:, 2] = 50.0
    decided = outcome_of(logits, has_regions=has_regions)
    torch.testing.assert_close(decided.terms["entropy"], torch.tensor(0.0))
    torch.testing.assert_close(decided.signs["confidence"], torch.tensor(1.0))
    assert decided.signs["foreground"] == 1


def test_the_signs_leave_out_the_padding():
    logits = torch.zeros(1, 2, 4, 4, 4)
    logits[:, 1, :2] = 9.0
    valid = torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
    valid[:, :, :2] = True
    assert outcome_of(logits).signs["foreground"] == 0.5
    inside = outcome_of(logits, valid).signs
    assert inside["foreground"] == 1
    torch.testing.assert_close(inside["confidence"], torch.tensor(9.0).sigmoid())


@pytest.mark.parametrize(
    ("foreground", "words"),
    [(0.0, "no foreground at all"), (1e-4, None), (0.5, None), (0.95, None), (0.97, "foreground in 97%")],
)
def test_a_collapse_to_one_answer_raises_an_alarm(foreground, words):
    alarms = build("entropymin", facts_of(network_of())).alarms({"foreground": foreground, "confidence": 0.99})
    assert len(alarms) == (words is not None)
    assert all(words in alarm and "entropy.weight" in alarm for alarm in alarms)

"""Mean teacher: what is true of it and of no other method."""

from __future__ import annotations

import pytest
import torch

from nnunetv2_semisup.networks.ema import make_teacher
from nnunetv2_semisup.networks.features import forward_with_features
from tests.regularizers.toy_step import build, facts_of, network_of, random_views, step_of

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("has_regions", [False, True])
def test_the_term_is_the_mean_squared_difference_to_the_teacher_on_the_other_view(has_regions):
    network, teacher = network_of(), make_teacher(network_of(seed=1))
    facts = facts_of(network, has_regions=has_regions)
    regularizer = build("meanteacher", facts)
    first, second = random_views()
    term = regularizer(step_of(network, regularizer, (first, second), teacher=teacher)).terms["consistency"]
    target = facts.probabilities(forward_with_features(teacher, first, ())[0])
    p = facts.probabilities(forward_with_features(network, second, ())[0])
    torch.testing.assert_close(term, (p - target).square().mean())


def test_the_decay_is_the_setting():
    assert build("meanteacher", facts_of(network_of()), {"teacher": {"decay": 0.5}}).ema_decay == 0.5

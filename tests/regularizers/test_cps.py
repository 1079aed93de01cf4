"""Cross pseudo supervision: what is true of it and of no other method."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from nnunetv2_semisup.networks.features import forward_with_features
from tests.regularizers.toy_step import build, facts_of, network_of, random_views, step_of

pytestmark = pytest.mark.fast


def test_each_network_learns_the_answers_of_the_other():
    first, second = network_of(), network_of(seed=1)
    regularizer = build("cps", facts_of(first))
    view = random_views()[0]
    term = regularizer(step_of(first, regularizer, (view,), peer=second)).terms["cross"]
    a, b = (forward_with_features(network, view, ())[0] for network in (first, second))
    torch.testing.assert_close(term, cross_entropy(a, b.argmax(1)) + cross_entropy(b, a.argmax(1)))
    term.backward()
    assert all(parameter.grad is not None for network in (first, second) for parameter in network.encoder.parameters())


def test_networks_that_agree_are_only_made_surer():
    network = network_of()
    regularizer = build("cps", facts_of(network))
    step = step_of(network, regularizer, random_views()[:1], peer=network)
    assert regularizer(step).signs["agreement"] == 1


def test_it_asks_for_a_second_network_and_one_view():
    regularizer = build("cps", facts_of(network_of()))
    assert (regularizer.views, regularizer.needs_peer, regularizer.ema_decay) == (("stock",), True, None)

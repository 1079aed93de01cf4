"""A confident wrong source of targets is seen in the signs of life: at once, and when the network has followed it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from nnunetv2_semisup.networks.ema import make_teacher
from nnunetv2_semisup.regularizers.base import Facts
from tests.regularizers.toy_step import build, facts_of, network_of, pseudo_label, random_views, step_of

pytestmark = pytest.mark.fast

WRONG = 2
"""The class that the source sees everywhere."""


def wrong_network() -> nn.Module:
    network = network_of(seed=1)
    with torch.no_grad():
        for layer in network.decoder.seg_layers:
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor([0.0, 0.0, 20.0]))
    return network


def wrong_teacher(facts: Facts) -> dict[str, Any]:
    return {"teacher": make_teacher(wrong_network())}


def wrong_peer(facts: Facts) -> dict[str, Any]:
    return {"peer": wrong_network()}


def wrong_stored_labels(facts: Facts) -> dict[str, Any]:
    return {"stored": torch.full_like(pseudo_label(facts, 2), WRONG)}


Source = Callable[[Facts], dict[str, Any]]
SOURCES: dict[str, tuple[Source, dict[str, Any], dict[str, float]]] = {
    "meanteacher": (wrong_teacher, {}, {}),
    "uamt": (wrong_teacher, {}, {"certain": 1.0}),
    "fixmatch": (wrong_teacher, {"mixing": {"share": 0.0}, "pseudo_label": {"threshold": 0.9}}, {"confident": 1.0}),
    "cps": (wrong_peer, {}, {}),
    "selftraining": (wrong_stored_labels, {}, {"pseudo_foreground": 1.0, "known": 1.0}),
}
"""Method -> its wrong source, settings, and the signs that show at once how sure the source is."""


@pytest.mark.parametrize("method", SOURCES)
def test_a_confident_wrong_teacher_is_seen_in_the_signs(method):
    source, changes, sure = SOURCES[method]
    network = network_of()
    facts = facts_of(network)
    regularizer = build(method, facts, changes)
    views = random_views()[: len(regularizer.views)]

    def outcome() -> Any:
        return regularizer(step_of(network, regularizer, views, **source(facts)))

    def signs() -> dict[str, float]:
        return {name: float(value) for name, value in outcome().signs.items()}

    before = signs()
    assert {name: before[name] for name in sure} == sure
    assert before["foreground"] < 0.9
    if "agreement" in before:
        assert before["agreement"] < 0.9
    assert not any("collapsed" in alarm for alarm in regularizer.alarms(before))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        sum(outcome().terms.values()).backward()
        optimizer.step()
    after = signs()
    assert after["foreground"] > 0.95
    assert any("collapsed" in alarm for alarm in regularizer.alarms(after))

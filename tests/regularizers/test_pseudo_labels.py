"""Pseudo-labels: what of a decision is kept."""

import pytest
import torch

from nnunetv2_semisup.regularizers.pseudo_labels import PseudoLabels, largest_components
from tests.regularizers.toy_step import build, facts_of, network_of

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("has_regions", [False, True])
def test_the_largest_component_of_each_class_stays_and_the_rest_is_background(dim, has_regions):
    answer = torch.zeros(2, 3, *(8,) * dim)
    big, small = (slice(0, 3),) * dim, (slice(5, 6),) * dim
    corner = (3,) * dim  # touches the big one by a corner
    answer[0, 1][big] = answer[0, 1][small] = answer[0, 1][corner] = 1
    answer[0, 2][(slice(6, 8),) * dim] = 1
    if not has_regions:
        answer[:, 0] = 1 - answer[:, 1:].sum(1)
    wanted = answer.clone()
    wanted[0, 1][small] = 0
    if not has_regions:
        wanted[0, 0][small] = 1
    assert torch.equal(largest_components(answer, has_regions), wanted)


def test_the_setting_chooses_and_what_is_removed_stays_as_confident_as_it_was():
    facts = facts_of(network_of())
    logits = torch.zeros(1, 3, 8, 8, 8)
    logits[:, 0] = 2
    logits[:, 1, :3, :3, :3] = 9
    logits[:, 1, 6, 6, 6] = 9
    kept = {}
    for components in ("all", "largest"):
        settings = build("fixmatch", facts, {"pseudo_label": {"components": components, "threshold": 0.9}}).settings
        kept[components] = PseudoLabels.of(facts, logits, settings.pseudo_label)
    assert kept["all"].target[:, 1].sum() == 28
    assert kept["largest"].target[:, 1].sum() == 27
    assert kept["largest"].target[0, 0, 6, 6, 6] == 1
    assert torch.equal(kept["all"].confident, kept["largest"].confident)
    assert kept["largest"].confident.sum() == 28

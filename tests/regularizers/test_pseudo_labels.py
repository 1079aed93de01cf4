"""Pseudo-labels: what of a decision is kept."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import one_hot

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.regularizers.pseudo_labels import PseudoLabels, in_one_piece
from tests.regularizers.toy_step import build, facts_of, network_of, outline_of

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("has_regions", [False, True])
def test_the_largest_component_of_a_structure_stays_and_the_rest_is_background(dim, has_regions):
    answer = torch.zeros(2, 3, *(8,) * dim)
    channel = 0 if has_regions else 1
    big, small = (slice(0, 3),) * dim, (slice(5, 6),) * dim
    corner = (3,) * dim  # touches the big one by a corner
    answer[0, channel][big] = answer[0, channel][small] = answer[0, channel][corner] = 1
    answer[0, 2][(slice(6, 7),) * dim] = answer[0, 2][(-1,) * dim] = 1
    answer[1, 2][big] = answer[1, 2][small] = 1
    if not has_regions:
        answer[:, 0] = 1 - answer[:, 1:].sum(1)
    wanted = answer.clone()
    wanted[0, channel][small] = 0
    if not has_regions:
        wanted[0, 0][small] = 1
    assert torch.equal(in_one_piece(answer, [1], has_regions), wanted)


@pytest.mark.parametrize("has_regions", [False, True])
def test_structures_that_touch_or_overlap_are_kept_apart(has_regions):
    """All at once equals one after the other, and only what was named changes."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, 5, 12, 12, 12)
    if has_regions:
        answer = (torch.rand(shape, generator=generator) < 0.15).float()
    else:
        answer = one_hot(torch.randint(5, (3, 12, 12, 12), generator=generator), 5).movedim(-1, 1).float()
    named = [1, 3, 4]
    expected = answer
    for structure in named:
        expected = in_one_piece(expected, [structure], has_regions)
    found = in_one_piece(answer, named, has_regions)
    assert torch.equal(found, expected)
    changed = [channel for channel in range(5) if not torch.equal(found[:, channel], answer[:, channel])]
    assert changed == ([0, 2, 3] if has_regions else [0, 1, 3, 4])
    assert has_regions or (found.sum(dim=1) == 1).all()


def pseudo_labels(one_piece, facts, logits, valid=None):
    settings = build("fixmatch", facts, {"pseudo_label": {"one_piece": one_piece, "threshold": 0.9}}).settings
    return PseudoLabels.of(facts, logits, settings.pseudo_label, valid)


def test_the_setting_names_structures_and_what_is_removed_stays_as_confident_as_it_was():
    facts = facts_of(network_of())
    logits = torch.zeros(1, 3, 8, 8, 8)
    logits[:, 0] = 2
    logits[:, 1, :3, :3, :3] = logits[:, 1, 6, 6, 6] = 9
    kept = {number: pseudo_labels([number] if number else [], facts, logits) for number in range(3)}
    assert [int(kept[number].target[:, 1].sum()) for number in range(3)] == [28, 27, 28]
    assert kept[1].target[0, 0, 6, 6, 6] == 1
    assert torch.equal(kept[0].confident, kept[1].confident)
    assert kept[1].confident.sum() == 28


@pytest.mark.parametrize("has_regions", [False, True])
def test_what_is_answered_on_padding_does_not_outgrow_an_organ(has_regions):
    facts = facts_of(network_of(), has_regions=has_regions)
    structure = 0 if has_regions else 1
    logits = torch.full((1, 3, 8, 8, 8), -9.0)
    logits[:, structure, :2, :2, :2] = logits[:, structure, :, :, 5:] = 9
    valid = torch.ones(1, 1, 8, 8, 8, dtype=torch.bool)
    valid[..., 4:] = False
    target = pseudo_labels([1], facts, logits, valid).target
    assert target[:, structure, :2, :2, :2].all()
    assert (target[:, structure] * valid[:, 0]).sum() == 8


@pytest.mark.parametrize("method", ["fixmatch", "mireg"])
def test_auto_asks_the_labelled_cases_where_pseudo_labels_count(method):
    facts = replace(facts_of(network_of()), one_piece=lambda: (2,))
    weighted = {"pseudo_label": {"cross_entropy": 1.0, "one_piece": "auto"}}
    assert build(method, facts, weighted).settings.pseudo_label.one_piece == [2]
    unused = {"pseudo_label": {"cross_entropy": 0.0, "dice": 0.0, "one_piece": "auto"}}
    assert build(method, facts, unused).settings.pseudo_label.one_piece == []
    chosen = {"pseudo_label": {"cross_entropy": 1.0, "one_piece": [1]}}
    assert build(method, facts, chosen).settings.pseudo_label.one_piece == [1]


@pytest.mark.parametrize("method", ["fixmatch", "mireg"])
def test_a_structure_that_the_dataset_lacks_is_refused(method):
    regularizer = build(method, facts_of(network_of()), {"pseudo_label": {"one_piece": [1, 3]}})
    type(regularizer).check(regularizer.settings, outline_of(regularizer.facts, 3))
    with pytest.raises(SemiSupervisedError, match=r"pseudo_label.one_piece = \[1, 3\] .* structures are 1 to 2"):
        type(regularizer).check(regularizer.settings, outline_of(regularizer.facts, 2))

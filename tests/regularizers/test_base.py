"""What every regularizer knows of outputs and targets."""

from __future__ import annotations

import pytest
import torch

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.regularizers.base import refuse_common_terms
from nnunetv2_semisup.training.unlabeled_pass import chosen, kinds_of
from tests.regularizers.toy_step import build, facts_of, network_of

pytestmark = pytest.mark.fast

LOGITS = torch.tensor([[[2.0, 0.0], [1.0, -1.0], [0.0, 3.0]]])
"""[1, 3, 2]: of classes the decisions are 0 and 2; of regions the first two at the first voxel, the last at both."""


def test_methods_with_a_common_term_are_refused():
    facts = facts_of(network_of())
    refuse_common_terms([build("fixmatch", facts), build("localcontrast", facts)])
    with pytest.raises(SemiSupervisedError, match=r"MeanTeacher and CrossLevel both have a term consistency"):
        refuse_common_terms([build("meanteacher", facts), build("crosslevel", facts)])


def test_decisions_confidence_and_foreground_of_classes():
    facts = facts_of(network_of())
    assert facts.answer(LOGITS).tolist() == [[[1, 0], [0, 0], [0, 1]]]
    p = facts.probabilities(LOGITS)
    assert torch.equal(facts.confidence(p), p.amax(1, keepdim=True))
    assert facts.foreground(LOGITS).tolist() == [[[False, True]]]


def test_decisions_confidence_and_foreground_of_regions():
    facts = facts_of(network_of(), has_regions=True)
    assert facts.answer(LOGITS).tolist() == [[[1, 0], [1, 0], [0, 1]]]
    torch.testing.assert_close(facts.confidence(facts.probabilities(LOGITS)), LOGITS.abs().sigmoid())
    assert facts.foreground(LOGITS).tolist() == [[[True, True]]]


def test_truth_of_classes_with_and_without_an_ignore_label():
    target = torch.tensor([[[0, 2, 3, 1]]], dtype=torch.int16)
    truth, known = facts_of(network_of(), ignore_label=3).truth(target, 3)
    assert truth.tolist() == [[[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]]]
    assert known.tolist() == [[[True, True, False, True]]]
    truth, known = facts_of(network_of()).truth(target, 4)
    assert truth.argmax(1).tolist() == [[0, 2, 3, 1]]
    assert known.all()


def test_truth_of_regions_with_and_without_an_ignore_label():
    target = torch.tensor([[[1, 0], [1, 1], [0, 1]]], dtype=torch.int16)
    facts = facts_of(network_of(), has_regions=True)
    truth, known = facts.truth(target, 3)
    assert torch.equal(truth, target.float())
    assert known.all()
    truth, known = facts.truth(target, 2)
    assert torch.equal(truth, target[:, :2].float())
    assert known.tolist() == [[[True, False]]]


def test_views_are_shared_between_methods_but_not_within_one():
    names = ("meanteacher", "fixmatch", "entropymin")
    meanteacher, fixmatch, entropymin = (build(name, facts_of(network_of())) for name in names)
    kinds = kinds_of([meanteacher, fixmatch, entropymin])
    assert sorted(kinds) == ["plain", "stock", "stock", "strong"]
    views = [torch.full((1,), float(index)) for index in range(4)]
    for regularizer in (meanteacher, fixmatch, entropymin):
        got = chosen(regularizer.views, kinds, views)
        assert [kinds[int(view)] for view in got] == list(regularizer.views)
        assert len({int(view) for view in got}) == len(got)

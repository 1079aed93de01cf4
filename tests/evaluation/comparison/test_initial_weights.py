"""A training that began with the weights of another one is not compared with one that began with fresh ones."""

import pytest

from nnunetv2_semisup.evaluation.comparison.compare import compare
from tests.evaluation.comparison.conftest import TRAIN, VAL
from tests.workspace import DATASET

KEY = "initial_weights"


def begun_with(origin="ours", weights="0123456789abcdef", before=None, **cases):
    """A change of the checkpoint: weights of a training on the first two cases, or on these."""
    lists = {"labeled": TRAIN[:2], "unlabeled": TRAIN[2:], "val": VAL} | cases
    known = {"trainer": "nnUNetTrainerMIReg", "dataset": DATASET, "cases": lists, KEY: before}
    mark = {"weights": weights, "file": None, "origin": known if origin == "ours" else origin}

    def change(checkpoint):
        checkpoint["semisup"][KEY] = mark

    change.mark = mark
    return change


def compared(lab, change, *allowed):
    """A run with these weights beside a good baseline and a good method."""
    good = [lab.run(errors=0.3, name="good"), lab.run("EntropyMin", errors=0.2, name="good")]
    return compare([*good, lab.run("EntropyMin", errors=0.1, name="tuned", change=change)], allowed)


def test_other_initial_weights_are_refused(lab):
    (refused,) = compared(lab, begun_with()).refused
    assert refused.reason == (
        "its initial_weights is 0123456789ab, LabeledOnly's None; to compare all the same: --allow-different "
        "initial_weights"
    )


def test_allowed_they_are_a_row_of_their_own_beside_a_baseline_with_fresh_ones(lab):
    runs = [lab.run(errors=0.3), lab.run("EntropyMin", errors=0.2)]
    runs.insert(0, lab.run(errors=0.1, name="tuned", change=begun_with()))
    comparison = compare(runs, [KEY])
    assert comparison.refused == []
    (tuned,) = [result for result in comparison.results if "initial_weights=0123456789ab" in result.row.title]
    assert (tuned.row.method[:11], tuned.row.role, tuned.row.different) == ("LabeledOnly", "method", (KEY,))
    assert tuned.difference.intervals[0][0].mean > 0
    assert not any("does not say what it saw" in line for line in comparison.warnings)


def test_the_same_weights_for_all_are_no_reason(lab):
    runs = [lab.run(errors=0.3, change=begun_with()), lab.run("EntropyMin", errors=0.2, change=begun_with())]
    assert compare(runs, []).refused == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (begun_with(labeled=[TRAIN[0], VAL[1]]), f"labeled cases include 1 of its validation cases, e.g. {VAL[1]}"),
        (begun_with(unlabeled=VAL), f"unlabeled cases include 4 of its validation cases, e.g. {VAL[0]}"),
        (begun_with(labeled=TRAIN), f"labelled cases include 2 that it has no labels of, e.g. {TRAIN[2]}"),
        (begun_with(before=begun_with(unlabeled=VAL[:1]).mark), "unlabeled cases include 1 of its validation cases"),
    ],
)
def test_weights_that_have_seen_what_they_may_not_are_refused_even_where_others_are_allowed(lab, change, reason):
    (refused,) = compared(lab, change, KEY).refused
    assert refused.reason.startswith("it began with weights of nnUNetTrainerMIReg, whose ")
    assert reason in refused.reason


def test_cases_of_another_dataset_are_other_cases(lab):
    change = begun_with(unlabeled=VAL)
    change.mark["origin"]["dataset"] = "Dataset902_Other"
    assert compared(lab, change, KEY).refused == []


def test_weights_of_unknown_origin_are_warned_about(lab):
    comparison = compared(lab, begun_with(origin=None), KEY)
    assert comparison.refused == []
    (line,) = [line for line in comparison.warnings if "does not say what it saw" in line]
    assert "tuned_EntropyMin" in line

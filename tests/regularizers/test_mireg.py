"""MIReg: alignment, the dead and the living form of the global term, the two teachers."""

import math
from dataclasses import replace

import pytest
import torch

from nnunetv2_semisup.losses.cross_entropy import cross_entropy
from nnunetv2_semisup.networks.ema import make_teacher
from nnunetv2_semisup.networks.features import forward_with_features
from tests.regularizers.toy_step import build, facts_of, network_of, random_views, step_of

pytestmark = pytest.mark.fast

OWN = {"output": {"form": "own_view"}}
MEAN_TEACHER = {"output": {"form": "mean_teacher"}}


def test_shares_are_normalised_and_scaling_them_changes_nothing():
    """mi_bim.md 3.5, row 14."""
    facts = facts_of(network_of())
    weights = build("mireg", facts, {"mi": {"shares": [1.0, 2.0, 1.0], "weight": 0.4}}).weights
    assert weights == build("mireg", facts, {"mi": {"shares": [10.0, 20.0, 10.0], "weight": 0.4}}).weights
    assert weights["mi_bottleneck"] == pytest.approx(0.1)
    assert weights["mi_stage-2"] == pytest.approx(0.2)


def test_a_tap_without_weight_has_no_head_and_no_term():
    network = network_of()
    regularizer = build("mireg", facts_of(network), {"mi": {"shares": [0.0, 0.5, 0.5]}})
    outcome = regularizer(step_of(network, regularizer, random_views()))
    assert set(outcome.terms) == {"mi_stage-2", "mi_stage-1", "pseudo_cross_entropy", "pseudo_dice"}
    assert set(regularizer.information.heads) == {"mi_stage-2", "mi_stage-1"}


class Pointwise(torch.nn.Module):
    """An equivariant network: every voxel by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv3d(2, 16, 1)
        self.classifier = torch.nn.Conv3d(16, 3, 1)


@pytest.mark.parametrize("seed", range(4))
def test_row16_views_are_aligned_an_equivariant_network_is_consistent(seed):
    """mi_bim.md 3.5, row 16: with f of 1x1x1 convolutions, T(f(u)) = f(T(u)) and the consistency is 0."""
    torch.manual_seed(seed)
    network = Pointwise()
    regularizer = build("mireg", facts_of(network_of()), {**OWN, "mi": {"weight": 0.0}})

    def forward(x, taps):
        features = network.layer(x)
        return network.classifier(features), [features for _ in taps]

    view = random_views(seed=seed)[0]
    step = step_of(network_of(), regularizer, (view, view), seed=seed)
    outcome = regularizer(type(step)(**{**vars(step), "student": forward}))
    assert outcome.terms["consistency"] == 0


def test_a_network_that_is_not_equivariant_is_inconsistent_under_flips_only():
    network = network_of()
    view = random_views()[0]
    for axes, equal in [((), True), ((0, 1, 2), False)]:
        regularizer = build("mireg", facts_of(network, mirror_axes=axes), {**OWN, "mi": {"weight": 0.0}})
        term = regularizer(step_of(network, regularizer, (view, view), seed=1)).terms["consistency"]
        assert bool(term == 0) is equal


@pytest.mark.parametrize("form", ["own_view", "mean_teacher"])
def test_mutual_information_rises_with_heads_in_adamw(form):
    """The heads' own optimiser brings the MI terms to life; under nnU-Net's SGD they stay near 0."""
    network = network_of()
    regularizer = build("mireg", facts_of(network), {"output": {"form": form}, "consistency": {"weight": 0.0}})
    optimizer = torch.optim.AdamW([*regularizer.parameters(), *network.parameters()], lr=5e-3)
    nats = {}
    for step in range(60):
        outcome = regularizer(step_of(network, regularizer, random_views(seed=step % 4), seed=step))
        optimizer.zero_grad()
        sum(outcome.terms.values()).backward()
        optimizer.step()
        nats[step] = {name: float(value) for name, value in outcome.signs.items() if name.endswith("nats")}
    for name in nats[0]:
        assert nats[59][name] > max(0.1, 10 * nats[0][name]), name
        assert nats[59][name] <= math.log(regularizer.settings.mi.clusters)


def test_own_view_trains_both_branches_and_ema_only_the_student():
    network = network_of()
    own = build("mireg", facts_of(network), OWN)
    ema = build("mireg", facts_of(network))
    assert (own.gradient_views, own.ema_decay) == (2, None)
    assert (ema.gradient_views, ema.ema_decay) == (1, 0.99)


def test_windows_follow_the_spacing():
    facts = facts_of(network_of(), spacing=(5.0, 1.0, 1.0))
    regularizer = build("mireg", facts)
    assert regularizer.settings.mi.radius == [0, 1, 1]
    assert build("mireg", facts, {"mi": {"radius": [1, 2, 2]}}).settings.mi.radius == [1, 2, 2]


@pytest.mark.parametrize(
    ("signs", "words"),
    [
        ({"mi_stage-1_entropy": 0.01}, "clusters of tap -1 have collapsed"),
        ({"foreground": 0.0}, "predicts no foreground"),
        ({"foreground": 0.99}, "foreground in 99%"),
        ({}, None),
    ],
)
def test_alarms_are_plain_words(signs, words):
    regularizer = build("mireg", facts_of(network_of()))
    healthy = dict.fromkeys(regularizer.sign_names, 0.5)
    alarms = regularizer.alarms(healthy | signs)
    assert (words is None and alarms == []) or (len(alarms) == 1 and words in alarms[0])


@pytest.mark.parametrize("has_regions", [False, True])
def test_pseudo_labels_of_the_reference_view_teach_the_transformed_one(has_regions):
    network, teacher = network_of(), make_teacher(network_of(seed=1))
    facts = facts_of(network, has_regions=has_regions, mirror_axes=())
    unmixed = {"mi": {"weight": 0.0}, "mixing": {"share": 0.0}}
    regularizer = build("mireg", facts, unmixed | {"pseudo_label": {"dice": 0.0, "threshold": 0.0}})
    first, second = random_views()
    outcome = regularizer(step_of(network, regularizer, (first, second), teacher=teacher))
    assert outcome.terms.keys() == {"pseudo_cross_entropy"}
    target = facts.answer(forward_with_features(teacher, first, ())[0])
    logits = forward_with_features(network, second, ())[0]
    torch.testing.assert_close(
        outcome.terms["pseudo_cross_entropy"], cross_entropy(logits, target, regions=has_regions)
    )


@pytest.mark.parametrize(
    ("form", "views", "terms"),
    [
        ("own_view", ("stock", "stock"), {"consistency"}),
        ("mean_teacher", ("stock", "stock"), {"consistency"}),
        ("weak_to_strong", ("plain", "strong"), {"pseudo_cross_entropy", "pseudo_dice"}),
    ],
)
def test_a_form_has_its_views_and_its_terms(form, views, terms):
    network = network_of()
    regularizer = build("mireg", facts_of(network), {"output": {"form": form}})
    assert regularizer.views == views
    outcome = regularizer(step_of(network, regularizer, random_views()))
    assert {name for name in outcome.terms if not name.startswith("mi_")} == terms
    assert outcome.terms.keys() == regularizer.weights.keys()


def test_own_views_in_one_call_equal_two_calls():
    network = network_of()
    regularizer = build("mireg", facts_of(network), OWN)
    step = step_of(network, regularizer, random_views())
    logits = [output[0] for output in regularizer._outputs(step, *step.views)]
    for ours, view in zip(logits, step.views, strict=True):
        torch.testing.assert_close(ours, forward_with_features(network, view, ())[0])


def test_mixed_patches_have_mixed_targets_and_share_features_on_their_own_voxels():
    """Teacher and student are equal, there are no flips, and both views are one: only the mixing differs."""
    network = network_of()
    facts = facts_of(network, mirror_axes=())
    mixing = {"mixing": {"exchange": 1.0}, "pseudo_label": {"threshold": 1.0}}
    regularizer = build("mireg", facts, mixing)
    view, _ = random_views()
    step = step_of(network, regularizer, (view, view))
    seen = []
    student = step.student
    outcome = regularizer(replace(step, student=lambda x, taps: (seen.append(x), student(x, taps))[1]))
    foreign = (seen[0] == step.labeled.images).all(1, keepdim=True)
    assert torch.equal(torch.where(foreign, step.labeled.images, view), seen[0])
    assert 0.1 < foreign.float().mean() < 0.9
    truth, _ = facts.truth(step.labeled.target, 3)
    logits = forward_with_features(network, seen[0], ())[0]
    expected = cross_entropy(logits, truth, weight=foreign.float())
    torch.testing.assert_close(outcome.terms["pseudo_cross_entropy"], expected)
    assert all(outcome.terms[name] < 0 for name in ("mi_bottleneck", "mi_stage-2", "mi_stage-1"))

"""Mixed supervision: what is true of it and of no other method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from nnunetv2_semisup.configuration.sources import merged
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.losses.distillation import double_softmax_divergence, kl_divergence
from nnunetv2_semisup.losses.entropy import entropy_loss
from nnunetv2_semisup.networks.ema import make_teacher
from nnunetv2_semisup.networks.features import forward_with_features
from nnunetv2_semisup.networks.second_decoder import on_one_encoder
from nnunetv2_semisup.regularizers.mixedkd import COPY, DEPARTURE, WINDOW
from nnunetv2_semisup.training.schedules import ramp_factor
from tests.regularizers.toy_step import build, facts_of, network_of, outline_of, random_views, step_of

pytestmark = pytest.mark.fast

PAPER = {"entropy": {"form": "shannon"}}
ENTROPY_ALONE = {"kd": {"weight": 0.0}}
EVERYWHERE = {"kd": {"domain": "all"}}
STRONG = {"entropy": {"form": "weak_to_strong"}}


def method(changes=None, **facts):
    """With the paper's form of the entropy, unless the changes name another."""
    return build("mixedkd", facts_of(network_of(), **facts), merged(PAPER, changes or {}))


def logits(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("has_regions", [False, True])
def test_unlabelled_terms_are_the_divergence_from_the_second_decoder_and_the_entropy(has_regions):
    network = network_of()
    teacher = on_one_encoder(network, network_of(seed=1))
    regularizer = build("mixedkd", facts_of(network, has_regions=has_regions), PAPER | EVERYWHERE)
    view = random_views()[0]
    outcome = regularizer(step_of(network, regularizer, (view,), second_decoder=teacher))
    student, taught = (forward_with_features(n, view, ())[0] for n in (network, teacher))
    torch.testing.assert_close(outcome.terms["kd"], kl_divergence(taught, student, regions=has_regions))
    torch.testing.assert_close(outcome.terms["entropy"], entropy_loss(student, regions=has_regions))


def test_it_asks_for_a_second_decoder_and_the_views_and_the_average_of_its_form():
    regularizer = build("mixedkd", facts_of(network_of()))
    assert (regularizer.views, regularizer.needs_second_decoder) == (("plain", "strong"), True)
    assert regularizer.ema_decay == regularizer.settings.ema.decay
    regularizer = method()
    assert (regularizer.views, regularizer.needs_second_decoder, regularizer.ema_decay) == (("stock",), True, None)
    assert method({"kd": {"domain": "all", "view": "other"}}).views == ("stock", "stock")
    assert not method({"kd": {"weight": 0.0}, "teacher": {"weight": 0.0}}).needs_second_decoder


def test_the_teacher_may_see_another_view():
    network = network_of()
    teacher = on_one_encoder(network, network_of(seed=1))
    regularizer = build("mixedkd", facts_of(network), PAPER | {"kd": {"domain": "all", "view": "other"}})
    first, second = random_views()
    term = regularizer(step_of(network, regularizer, (first, second), second_decoder=teacher)).terms["kd"]
    student, taught = forward_with_features(network, first, ())[0], forward_with_features(teacher, second, ())[0]
    torch.testing.assert_close(term, kl_divergence(taught, student))


@pytest.mark.parametrize("has_regions", [False, True])
def test_weak_to_strong_is_fixmatch_beside_the_other_terms(has_regions):
    network = network_of()
    facts = facts_of(network, has_regions=has_regions)
    pseudo_label = {"pseudo_label": {"threshold": 0.5}}
    ours = build("mixedkd", facts, STRONG | ENTROPY_ALONE | pseudo_label)
    fixmatch = build("fixmatch", facts, pseudo_label)
    views = random_views()
    average = make_teacher(network_of(seed=1))
    outcome, expected = (r(step_of(network, r, views, teacher=average)) for r in (ours, fixmatch))
    assert ours.ema_decay == fixmatch.ema_decay == 0.99
    assert outcome.terms.keys() == expected.terms.keys() == ours.weights.keys() - {"kd"}
    for name, term in outcome.terms.items():
        torch.testing.assert_close(term, expected.terms[name])
    torch.testing.assert_close(outcome.signs["confident"], expected.signs["confident"])
    assert outcome.signs.keys() == set(ours.sign_names)


def test_weak_to_strong_teaches_the_voxels_that_both_views_show():
    network = network_of()
    regularizer = build("mixedkd", facts_of(network), STRONG | EVERYWHERE)
    plain, strong = random_views()
    student, seen, teacher = logits(2, 3, 16, 16, 16).requires_grad_(), [], logits(2, 3, 16, 16, 16, seed=1)
    step = step_of(network, regularizer, (plain, strong))
    step = replace(
        step,
        student=lambda x, _: (student, seen.append(x)),
        teacher=lambda x, _: (5 * teacher, seen.append(x)),
        second_decoder=lambda x, _: (teacher, seen.append(x)),
    )
    terms = regularizer(step).terms
    assert seen[0] is plain
    assert seen[2] is plain
    own = (seen[1] == strong).all(dim=1, keepdim=True)
    assert 0 < own.float().mean() < 1
    torch.testing.assert_close(terms["kd"], kl_divergence(teacher, student, own))
    (gradient,) = torch.autograd.grad(terms["kd"], student)
    assert not gradient[~own.expand_as(gradient)].any()


def test_the_teacher_teaches_on_strong_views_without_the_students_own_pseudo_labels():
    regularizer = method(merged(STRONG | EVERYWHERE, {"entropy": {"weight": 0.0}}))
    outcome = regularizer(step_of(network_of(), regularizer, random_views()))
    assert outcome.terms["kd"] > 0
    assert regularizer.weights == {"kd": 1.0, "pseudo_cross_entropy": 0.0, "pseudo_dice": 0.0}


def test_weak_to_strong_takes_the_weight_of_the_confidence():
    regularizer = method({"entropy": {"form": "weak_to_strong", "weight": 0.5}, "pseudo_label": {"dice": 3.0}})
    assert regularizer.weights == {"kd": 0.0, "pseudo_cross_entropy": 0.5, "pseudo_dice": 1.5}
    student = logits(2, 3, 5, 5)
    torch.testing.assert_close(regularizer.sparse(student, None).terms["entropy_sparse"], entropy_loss(student))


def test_property_12_without_the_weak_rows_in_its_domain_no_unlabelled_patch_reaches_the_teacher():
    regularizer = method({"kd": {"domain": "dense"}})
    student = logits(2, 3, 4, 4, 4).requires_grad_()
    views = random_views()[:1]
    step = replace(step_of(network_of(), regularizer, views), student=lambda *_: (student, []), second_decoder=None)
    outcome = regularizer(step)
    assert outcome.terms.keys() == {"entropy"}
    assert regularizer.weights["kd"] == 0
    assert regularizer.labeled_weights["kd_dense"] > 0 == regularizer.labeled_weights["kd_sparse"]
    assert outcome.signs.keys() == set(regularizer.sign_names)


@pytest.mark.parametrize("domain", ["all", "dense"])
@pytest.mark.parametrize("sure", ["weak", "all"])
def test_property_12_the_terms_of_labelled_patches_are_routed_by_domain(domain, sure):
    regularizer = method({"kd": {"domain": domain}, "entropy": {"domain": sure}})
    student, teacher = logits(4, 3, 5, 5), logits(4, 3, 5, 5, seed=1)
    kd, entropy = kl_divergence(teacher, student), entropy_loss(student)
    dense = regularizer.dense(student, teacher)
    sparse = regularizer.sparse(student, teacher if domain == "all" else None)
    torch.testing.assert_close(dense.terms, {"kd_dense": kd} | ({"entropy_dense": entropy} if sure == "all" else {}))
    torch.testing.assert_close(
        sparse.terms, ({"kd_sparse": kd} if domain == "all" else {}) | {"entropy_sparse": entropy}
    )
    assert {name for name, weight in regularizer.labeled_weights.items() if weight > 0} == {*dense.terms, *sparse.terms}
    assert dense.signs.keys() == set(regularizer.labeled_sign_names)
    assert sparse.signs.keys() == set(regularizer.sign_names)


@pytest.mark.parametrize("has_regions", [False, True])
def test_pseudo_labels_in_place_of_the_entropy_are_the_cross_entropy_with_what_is_decided_surely(has_regions):
    regularizer = method(
        {"entropy": {"form": "pseudo_label"}, "pseudo_label": {"threshold": 0.6}}, has_regions=has_regions
    )
    student = (3 * logits(2, 3, 5, 5)).requires_grad_()
    valid = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    valid[..., :2] = False
    term = regularizer.uncertainty(student, valid)
    p = student.detach().sigmoid() if has_regions else student.detach().softmax(1)
    decided = torch.maximum(p, 1 - p) if has_regions else p.amax(1, keepdim=True)
    losses = torch.where(decided >= 0.6, -decided.log(), 0.0)
    expected = losses[valid.expand_as(losses)].mean()
    assert 0 < expected < -decided.log().mean()
    torch.testing.assert_close(term.detach(), expected)
    (gradient,) = torch.autograd.grad(term, student)
    assert not gradient[..., :2].any()
    unsure = (decided < 0.6).expand_as(student)
    assert not gradient[unsure].any()
    assert gradient[~unsure & valid].any()


def test_the_direction_turns_the_divergence_around():
    student, teacher = logits(2, 3, 4), logits(2, 3, 4, seed=1)
    back = method({"kd": {"direction": "student_to_teacher"}})
    torch.testing.assert_close(back.distillation(student, teacher), kl_divergence(student, teacher))
    assert back.distillation(student, teacher) != method().distillation(student, teacher)


def test_brier_is_the_mean_squared_difference_of_the_probabilities():
    student, teacher = logits(2, 3, 4), logits(2, 3, 4, seed=1)
    expected = (student.softmax(1) - teacher.softmax(1)).square().mean()
    torch.testing.assert_close(method({"kd": {"form": "brier"}}).distillation(student, teacher), expected)


@pytest.mark.parametrize(("form", "moves"), [("kl", False), ("brier", False), ("legacy", True)])
def test_property_4_the_teacher_is_detached_but_in_the_released_form(form, moves):
    student, teacher = logits(2, 3, 4).requires_grad_(), logits(2, 3, 4, seed=1).requires_grad_()
    term = method({"kd": {"form": form}}).distillation(student, teacher)
    if form == "legacy":
        torch.testing.assert_close(term, double_softmax_divergence(student, teacher))
    term.backward()
    assert student.grad.abs().sum() > 0
    assert (teacher.grad is not None) == moves


def test_property_14_the_weights_are_0_in_the_warm_up_and_then_only_grow():
    schedule = method().settings.schedule
    factors = [ramp_factor(epoch, 1000, schedule.warmup, schedule.ramp) for epoch in range(1000)]
    assert factors[0] == 0
    assert factors == sorted(factors)
    assert factors[20] == 0 < factors[60] < 1 == factors[-1]


# ------------------------------------------------------------------ property 15: collapse


class Pixels(nn.Module):
    """Logits of one image, free: a student without a network."""

    def __init__(self, start: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(start.clone())


def trained(kd: float, entropy: float) -> tuple[float, float, list[str]]:
    """Foreground of a student and of its teacher on a toy image, and the alarms at the end.

    The teacher finds 8 % of foreground, sure of itself. The student begins undecided, leaning to background.
    """
    teacher = torch.full((1, 2, 100), 0.0)
    teacher[:, 1], teacher[:, 1, :8] = -3.0, 3.0
    student = Pixels(torch.tensor([0.3, 0.0]).reshape(1, 2, 1) + 0.05 * logits(1, 2, 100))
    regularizer = method({"kd": {"weight": kd, "domain": "all"}, "entropy": {"weight": entropy}})
    optimizer = torch.optim.Adam(student.parameters(), lr=0.1)
    step = step_of(network_of(), regularizer, random_views()[:1])
    step = replace(step, student=lambda *_: (student.logits, []), second_decoder=lambda *_: (teacher, []))
    for _ in range(200):
        outcome = regularizer(step)
        loss = sum(regularizer.weights[name] * term for name, term in outcome.terms.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    outcome = regularizer(step)
    signs = {name: float(sign) for name, sign in outcome.signs.items()}
    found = float((student.logits.argmax(1) == 1).float().mean())
    return found, 0.08, regularizer.alarms(signs | {"foreground_dense": 0.08})


def test_property_15_entropy_alone_collapses_to_one_answer_with_an_alarm_and_distillation_prevents_it():
    found, _, alarms = trained(kd=0.0, entropy=10.0)
    assert found == 0
    assert any("no foreground at all" in alarm for alarm in alarms)
    found, expected, alarms = trained(kd=10.0, entropy=1.0)
    assert found == pytest.approx(expected)
    assert not any("foreground" in alarm for alarm in alarms)


@pytest.mark.parametrize(
    ("weak", "dense", "words"),
    [
        (0.0, 0.1, "no foreground at all"),
        (0.1 / DEPARTURE / 2, 0.1, "in 0.50% of the voxels of sparse and unlabelled patches, and in 10.00%"),
        (0.6, 0.05, "it drifts"),
        (0.05, 0.1, None),
        (0.1, 0.05, None),
        (0.2, 0.0, None),
    ],
)
def test_departure_of_the_weak_from_the_dense_patches_is_said(weak, dense, words):
    alarms = method().alarms({"foreground": weak, "foreground_dense": dense})
    assert len(alarms) == (words is not None)
    assert all(words in alarm and "entropy.weight" in alarm for alarm in alarms)


@pytest.mark.parametrize(("divergence", "alarmed"), [(COPY / 2, True), (2 * COPY, False)])
def test_decoders_that_are_copies_are_said(divergence, alarmed):
    alarms = method().alarms({"divergence": divergence, "agreement": 0.99, "confidence": 0.9})
    assert any("two decoders say the same" in alarm and "kd.view=other" in alarm for alarm in alarms) == alarmed


def test_what_is_said_of_copies_and_of_unsure_answers_from_a_plain_to_a_strong_view():
    regularizer = method(STRONG)
    (alarm,) = regularizer.alarms({"divergence": COPY / 2, "confident": 0.1})
    assert "teacher.weight=0 with kd.weight=0" in alarm
    (alarm,) = regularizer.alarms({"divergence": 1.0, "confident": 0.0})
    assert "lower pseudo_label.threshold" in alarm


def test_the_divergence_is_0_for_copies_and_a_share_of_the_entropy_otherwise():
    regularizer = method(EVERYWHERE)
    same = regularizer.sparse(logits(2, 3, 4), logits(2, 3, 4)).signs
    assert same["divergence"] == pytest.approx(0, abs=1e-6)
    assert same["agreement"] == 1
    student, teacher = logits(2, 3, 4), logits(2, 3, 4, seed=1)
    p = student.softmax(1)
    expected = kl_divergence(teacher, student) / -(p * p.log()).sum(1).mean()
    torch.testing.assert_close(regularizer.sparse(student, teacher).signs["divergence"], expected)


def test_confidence_that_rises_while_agreement_falls_is_said_within_the_window_alone():
    regularizer = method()
    for epoch in range(3 * WINDOW):
        signs = {"confidence": 0.9 + 0.005 * epoch, "agreement": 0.9 - 0.03 * epoch}
        alarms = regularizer.alarms(signs)
        assert bool(alarms) == (epoch >= 4), epoch
    assert "lower entropy.weight" in alarms[0]
    slow = method()
    for epoch in range(100):
        assert not slow.alarms({"confidence": 0.9 + 0.001 * epoch, "agreement": 0.9 - 0.01 * epoch})
    better = method()
    for epoch in range(20):
        assert not better.alarms({"confidence": 0.9 + 0.005 * epoch, "agreement": 0.5 + 0.02 * epoch})


@pytest.mark.parametrize(
    ("changes", "regions", "words"),
    [
        ({"teacher": {"weight": 0.0}}, False, "set kd.weight=0 as well, or teacher.weight=1"),
        ({"kd": {"form": "legacy"}}, True, "set kd.form=kl or brier"),
        ({"kd": {"form": "legacy"}}, False, None),
        ({"kd": {"view": "other"}}, False, "set kd.domain=all, or kd.view=same"),
        ({"kd": {"view": "other", "domain": "all"}} | STRONG, False, "has no meaning .* set kd.view=same"),
        ({"teacher": {"weight": 0.0}, "kd": {"weight": 0.0}}, False, None),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(changes, regions, words):
    regularizer = method(merged(changes, {}))
    settings, outline = regularizer.settings, replace(outline_of(regularizer.facts), has_regions=regions)
    if words is None:
        type(method()).check(settings, outline)
        return
    with pytest.raises(SemiSupervisedError, match=words) as error:
        type(method()).check(settings, outline)
    assert "\n" not in str(error.value)


def test_zero_weights_leave_their_terms_out():
    student, teacher = logits(2, 3, 4), logits(2, 3, 4, seed=1)
    assert method(ENTROPY_ALONE).sparse(student, None).terms.keys() == {"entropy_sparse"}
    assert not method(ENTROPY_ALONE).dense(student, None).terms
    without_entropy = method({"entropy": {"weight": 0.0, "domain": "all"}})
    assert without_entropy.dense(student, teacher).terms.keys() == {"kd_dense"}
    assert not without_entropy.sparse(student, None).terms
    assert method({"entropy": {"weight": 0.3}}).weights["entropy"] == 0.3

"""What one unlabelled step adds to the gradients, and what it logs of them."""

from contextlib import nullcontext

import pytest
import torch

from nnunetv2_semisup.data.views import View
from nnunetv2_semisup.networks.features import forward_with_features
from nnunetv2_semisup.regularizers.base import Outcome, Regularizer
from nnunetv2_semisup.training.cost import Cost
from nnunetv2_semisup.training.run_log import EpochMeans
from nnunetv2_semisup.training.unlabeled_pass import Networks, UnlabeledPass, chosen, kinds_of
from tests.regularizers.toy_step import facts_of, labeled_batch, network_of, random_views

pytestmark = pytest.mark.fast


class TwoTerms(Regularizer):
    """A term on the logits, and one on a decoder stage that is upstream of them."""

    views = ("stock",)
    weights = {"of_logits": 0.5, "of_stage": 2.0}  # noqa: RUF012  # never changed

    def forward(self, step):
        logits, (_, stage) = step.student(step.views[0], (0, -2))
        return Outcome({"of_logits": logits.square().sum(), "of_stage": 3 * stage.sum()})


def run(log_gradients: bool):
    network, facts = network_of(), facts_of(network_of())
    means = EpochMeans()
    regularizer = TwoTerms(None, facts)
    step = UnlabeledPass(
        [regularizer], kinds_of([regularizer]), forward_with_features, torch.Generator(), means, Cost()
    )
    view = random_views()[0]
    step.backward(
        {"views": [view], "valid": torch.ones(2, 1, 16, 16, 16, dtype=torch.bool), "pseudo_label": None},
        labeled_batch(facts),
        Networks(network),
        factor=0.25,
        progress=0.5,
        number=0,
        device=torch.device("cpu"),
        autocast=nullcontext(),
        scaled=lambda loss: 8 * loss,
        log_gradients=log_gradients,
    )
    return network, means.take(), view


def test_a_terms_gradient_is_that_at_the_outputs_it_reads_and_not_at_levels_above():
    network, means, view = run(log_gradients=True)
    logits, (stage,) = forward_with_features(network, view, (-2,))
    assert means["grad/of_logits"] == pytest.approx(0.25 * 0.5 * 2 * logits.detach().norm().item(), rel=1e-5)
    assert means["grad/of_stage"] == pytest.approx(0.25 * 2.0 * 3 * stage.numel() ** 0.5, rel=1e-5)


def test_logging_gradients_changes_none():
    (first, _, _), (second, means, _) = run(log_gradients=True), run(log_gradients=False)
    assert not any(name.startswith("grad/") for name in means)
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)


def test_views_are_shared_between_regularizers():
    kinds: tuple[View, ...] = ("plain", "strong", "strong")
    views = [torch.tensor(i) for i in range(3)]
    assert chosen(("strong", "plain"), kinds, views) == (views[1], views[0])
    assert chosen(("strong", "strong"), kinds, views) == (views[1], views[2])


class InParts(Regularizer):
    """A term of two halves of the patch, each seen by itself, and a term of the whole; parts are settled if wanted."""

    views = ("stock",)
    weights = {"parts": 3.0, "whole": 0.5}  # noqa: RUF012  # never changed

    def __init__(self, facts, settles):
        super().__init__(None, facts)
        self.settles = settles
        self.left = []

    def forward(self, step):
        logits, _ = step.student(step.views[0], ())
        parts = []
        for half in step.views[0].chunk(2, dim=2):
            own, (features,) = step.student(half, (-1,))
            part = own.square().mean() + features.mean()
            parts.append(step.settle("parts", part) if self.settles else part)
        self.left = parts
        with torch.no_grad():
            step.student(step.views[0], ())
        return Outcome({"parts": torch.stack(parts).sum(), "whole": logits.square().mean()})


def in_parts(settles, log_gradients, autocast=None):
    network, facts = network_of(), facts_of(network_of())
    means, cost = EpochMeans(), Cost()
    regularizer = InParts(facts, settles)
    kinds = kinds_of([regularizer])
    step = UnlabeledPass([regularizer], kinds, forward_with_features, torch.Generator(), means, cost)
    loss = step.backward(
        {"views": [random_views()[0]], "valid": torch.ones(2, 1, 16, 16, 16, dtype=torch.bool), "pseudo_label": None},
        labeled_batch(facts),
        Networks(network),
        factor=0.25,
        progress=0.5,
        number=0,
        device=torch.device("cpu"),
        autocast=autocast or nullcontext(),
        scaled=lambda loss: 8 * loss,
        log_gradients=log_gradients,
    )
    return network, means.take(), cost, loss, regularizer.left


@pytest.mark.parametrize("log_gradients", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_settled_parts_give_the_gradients_and_the_log_of_a_term_that_is_kept_whole(log_gradients, mixed):
    casts = [torch.autocast("cpu", torch.bfloat16) if mixed else None for _ in range(2)]
    network, means, cost, loss, left = in_parts(True, log_gradients, casts[0])
    expected, expected_means, expected_cost, expected_loss, _ = in_parts(False, log_gradients, casts[1])
    for ours, theirs in zip(network.parameters(), expected.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            # In half precision gradients of a shared weight are rounded where they are summed.
            rounded = {"rtol": 0.1, "atol": 0.02 * float(theirs.grad.abs().max())} if mixed else {}
            torch.testing.assert_close(ours.grad, theirs.grad, **rounded)
    assert means.keys() == expected_means.keys()
    assert ("grad/parts" in means) == log_gradients
    for name, value in expected_means.items():
        assert means[name] == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(loss, expected_loss)
    assert cost == expected_cost
    assert not any(part.requires_grad for part in left), "a graph is still there"


def test_parts_of_patches_are_counted_by_their_voxels():
    _, _, cost, _, _ = in_parts(True, False)
    # Two patches whole with gradient, as two halves, and whole without.
    assert (cost.samples, cost.gradient_samples) == (6, 4)


def test_nothing_is_left_to_do_where_all_terms_are_settled(monkeypatch):
    monkeypatch.setattr(InParts, "weights", {"parts": 3.0})
    forward = InParts.forward
    monkeypatch.setattr(InParts, "forward", lambda self, step: Outcome({"parts": forward(self, step).terms["parts"]}))
    network, means, *_ = in_parts(True, True)
    assert means["grad/parts"] > 0
    assert any(parameter.grad is not None for parameter in network.parameters())

"""What every regularizer must do, whatever its paper says."""

import pytest
import torch

from nnunetv2_semisup.methods import methods, trainer_class
from nnunetv2_semisup.networks.ema import make_teacher
from tests.regularizers.toy_step import build, facts_of, labeled_batch, network_of, random_views, step_of

pytestmark = pytest.mark.fast

SURE = 40.0
"""Factor on the logits of a random network: methods with a threshold learn from confident answers alone."""
METHODS = [method for method, trainer in sorted(methods().items()) if trainer_class(trainer).regularizers]


def toy(method, dim=3, seed=0, norm=True, **facts):
    """A network that is sure of its random answers, its regularizer, and as many views as that asks for."""
    network = network_of(dim, seed, norm)
    with torch.no_grad():
        network.decoder.seg_layers[-1].weight *= SURE
    regularizer = build(method, facts_of(network, dim, **facts))
    return network, regularizer, random_views(dim)[: len(regularizer.views)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("has_regions", [False, True])
def test_terms_are_alive_and_reach_student_and_heads_but_not_the_teacher(method, dim, has_regions):
    network, regularizer, views = toy(method, dim, has_regions=has_regions)
    teacher = make_teacher(toy(method, dim, seed=1)[0])
    outcome = regularizer(step_of(network, regularizer, views, teacher=teacher))
    assert outcome.terms.keys() == {name for name, weight in regularizer.weights.items() if weight > 0}
    assert set(regularizer.sign_names) == outcome.signs.keys()
    for name, term in outcome.terms.items():
        assert term.ndim == 0, name
        assert term != 0, name
        gradients = torch.autograd.grad(term, list(network.parameters()), retain_graph=True, allow_unused=True)
        assert any(g is not None and g.abs().sum() > 0 for g in gradients), name
    sum(outcome.terms.values()).backward()
    # Heads may have their turns.
    for number in range(1, 3):
        turn = regularizer(step_of(network, regularizer, views, teacher=teacher, number=number))
        sum(turn.terms.values()).backward()
    assert all(parameter.grad is not None for parameter in regularizer.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(sign.requires_grad for sign in outcome.signs.values())


@pytest.mark.parametrize("method", METHODS)
def test_twenty_steps_lower_the_weighted_sum(method):
    network, regularizer, views = toy(method)
    teacher, values = make_teacher(network), []
    optimizer = torch.optim.AdamW([*network.parameters(), *regularizer.parameters()], lr=1e-3)
    for _ in range(20):
        outcome = regularizer(step_of(network, regularizer, views, seed=3, teacher=teacher))
        loss = sum(regularizer.weights[name] * term for name, term in outcome.terms.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < values[0]


@pytest.mark.parametrize("method", METHODS)
def test_the_same_generator_gives_the_same_terms_and_no_global_number_is_drawn(method):
    network, regularizer, views = toy(method)
    steps = [step_of(network, regularizer, views, seed=4) for _ in range(2)]
    state = torch.get_rng_state()
    first, second = map(regularizer, steps)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first.terms[name], second.terms[name]) for name in first.terms)


@pytest.mark.parametrize("method", METHODS)
def test_masked_voxels_do_not_count_and_an_empty_batch_gives_attached_zeros(method):
    network, regularizer, views = toy(method, norm=False, mirror_axes=(), ignore_label=3)
    valid = torch.zeros(2, 1, 16, 16, 16, dtype=torch.bool)
    labeled = labeled_batch(regularizer.facts, value=3)
    outcome = regularizer(step_of(network, regularizer, views, valid=valid, labeled=labeled))
    for name, term in outcome.terms.items():
        assert term == 0, name
        assert term.requires_grad, name
    assert torch.isfinite(sum(outcome.terms.values()))


@pytest.mark.parametrize("method", METHODS)
def test_constant_images_stay_finite(method):
    network, regularizer, views = toy(method)
    views = tuple(torch.full_like(view, value) for value, view in enumerate(views))
    outcome = regularizer(step_of(network, regularizer, views))
    sum(outcome.terms.values()).backward()
    assert all(torch.isfinite(term) for term in outcome.terms.values())
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)

"""The features call equals the network's own forward, and is traced in one graph."""

import pytest
import torch
from torch import nn

from nnunetv2_semisup.networks.features import (
    Levels,
    forward_in_training,
    forward_with_features,
    refuse_unsupported_network,
    unwrapped,
)
from tests.networks.networks import images, plain, residual

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("build", [plain, residual])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_logits_equal_the_stock_forward_bit_for_bit(build, dim, deep_supervision):
    network = build(dim, deep_supervision)
    x = images(dim)
    stock = network(x)
    logits, _ = forward_with_features(network, x, ())
    assert torch.equal(logits, stock[0] if deep_supervision else stock)


@pytest.mark.parametrize("build", [plain, residual])
def test_gradients_equal_those_of_the_stock_forward(build):
    network, x = build(3, False), images(3)
    network(x).square().mean().backward()
    stock = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    forward_with_features(network, x, (0, -1))[0].square().mean().backward()
    ours = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(stock, ours, strict=True))


def test_taps_are_the_levels_that_hooks_see():
    network, x = plain(), images()
    seen = {}
    network.encoder.stages[-1].register_forward_hook(lambda m, i, o: seen.update(bottleneck=o))
    network.decoder.stages[-2].register_forward_hook(lambda m, i, o: seen.update(before=o))
    network.decoder.stages[-1].register_forward_hook(lambda m, i, o: seen.update(last=o))
    _, (bottleneck, before, last) = forward_with_features(network, x, (0, -2, -1))
    assert torch.equal(bottleneck, seen["bottleneck"])
    assert torch.equal(before, seen["before"])
    assert torch.equal(last, seen["last"])


@pytest.mark.parametrize("build", [plain, residual])
def test_levels_describe_the_features(build):
    network, x = build(), images()
    levels = Levels.of(network)
    _, features = forward_with_features(network, x, range(len(levels.channels)))
    for feature, channels, stride in zip(features, levels.channels, levels.strides, strict=True):
        assert feature.shape[1] == channels
        assert tuple(feature.shape[2:]) == tuple(16 // s for s in stride)


def test_the_call_is_traced_as_one_graph():
    network, x = plain(), images()
    traced = torch.compile(forward_with_features, backend="eager", fullgraph=True)
    ours, ours_features = traced(network, x, (0, -1))
    logits, features = forward_with_features(network, x, (0, -1))
    assert torch.equal(ours, logits)
    assert all(torch.equal(a, b) for a, b in zip(ours_features, features, strict=True))


@pytest.mark.parametrize("build", [plain, residual])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_a_pass_in_training_equals_the_networks_own_bit_for_bit_gradients_too(build, deep_supervision):
    network, x = build(deep_supervision=deep_supervision), images()
    traced = torch.compile(forward_in_training, backend="eager", fullgraph=True)
    gradients = []
    for forward in (lambda: (network(x), None), lambda: forward_in_training(network, x), lambda: traced(network, x)):
        outputs, feature = forward()
        assert isinstance(outputs, list) == deep_supervision
        outputs = outputs if deep_supervision else [outputs]
        loss = sum((index + 1) * output.square().sum() for index, output in enumerate(outputs))
        gradients.append(
            [*map(torch.detach, outputs), *torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)]
        )
        if feature is not None:
            assert torch.equal(feature, forward_with_features(network, x, (-1,))[1][0])
    for theirs, *ours in zip(*gradients, strict=True):
        assert all(a is theirs is None or torch.equal(a, theirs) for a in ours)


def test_other_networks_are_refused_by_name():
    with pytest.raises(NotImplementedError, match="Sequential"):
        forward_with_features(nn.Sequential(nn.Conv3d(2, 2, 1)), images(), ())
    with pytest.raises(NotImplementedError, match="Primus"):
        refuse_unsupported_network("dynamic_network_architectures.architectures.primus.Primus")


def test_unwrapped_looks_through_compile():
    network = plain()
    assert unwrapped(torch.compile(network)) is network
    assert unwrapped(network) is network


def test_instance_norm_makes_one_forward_equal_two():
    """mi_bim.md 3.5, row 17."""
    network, x = plain(), images()
    together, _ = forward_with_features(network, x, ())
    apart = torch.cat([forward_with_features(network, sample[None], ())[0] for sample in x])
    assert torch.allclose(together, apart, atol=1e-5)

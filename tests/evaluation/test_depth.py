"""What benchmarks/depth.py says of a network whose last stage does, or does not, hear of what is below."""

import pytest
import torch

from tests.benchmarks import script
from tests.regularizers.toy_step import network_of, random_views

pytestmark = pytest.mark.fast


def kept_of(network):
    patches, _ = random_views()
    return [share for _, share in script("depth").kept(network, lambda x: network(x).argmax(1), patches)]


def test_an_answer_from_the_finest_skip_alone_is_kept_whole_and_another_is_not():
    network = network_of(3)
    assert any(share < 1 for share in kept_of(network))
    first = network.decoder.stages[-1].convs[0].conv
    with torch.no_grad():
        first.weight[:, : network.decoder.transpconvs[-1].out_channels] = 0
    assert kept_of(network) == [1.0] * len(network.decoder.transpconvs)
    assert not network.decoder.transpconvs[-1]._forward_hooks

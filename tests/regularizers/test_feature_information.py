"""MI of features: its form at each tap, the dead and the living global term, nothing lost by recomputing maps."""

import pytest
import torch

from nnunetv2_semisup.data.geometry import Geometry, Move
from nnunetv2_semisup.losses.mutual_information import global_mi_loss, local_mi_loss
from nnunetv2_semisup.networks.features import forward_with_features
from nnunetv2_semisup.networks.pooling import mostly, regional_means
from nnunetv2_semisup.regularizers.feature_information import FeatureInformation
from tests.regularizers.toy_step import build, facts_of, network_of, random_views

pytestmark = pytest.mark.fast


def information_of(**changes) -> FeatureInformation:
    return build("mireg", facts_of(network_of()), {"mi": changes}).information


def test_row06_global_pooling_is_dead_under_instance_norm_and_regional_pooling_is_not():
    """mi_bim.md 1.6-b and 3.2: the mean of a normalised feature map hardly differs between images."""
    network = network_of()
    images = torch.cat([random_views(seed=seed)[0] for seed in range(8)])
    _, (bottleneck,) = forward_with_features(network, images, (0,))
    whole, regions = (
        regional_means(bottleneck, [grid] * 3).movedim(1, -1).flatten(0, -2).detach().std(dim=0).mean()
        for grid in (1, 4)
    )
    assert regions > 3 * whole


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("needs_gradient", [False, True])
def test_terms_and_gradients_are_those_of_the_formula_on_transformed_features(masked, needs_gradient):
    """Heads before the flip instead of behind it, and maps made twice, change neither value nor gradient."""
    network = network_of()
    information = information_of(radius=[1, 1, 1])
    geometry = Geometry(3, (Move((-1,)), Move((-3, -2))))
    first, second = random_views()
    shared = None
    if masked:
        shared = torch.zeros(2, 1, 16, 16, 16, dtype=torch.bool)
        shared[:, :, 3:12, :, 5:] = True

    def features(x):
        found = forward_with_features(network, x, information.taps)[1]
        return [f.detach().requires_grad_(needs_gradient) for f in found]

    def gradients(value, inputs):
        wanted = [*information.parameters(), *(inputs if needs_gradient else [])]
        return torch.autograd.grad(value, wanted)

    references, others = features(first), features(geometry(second))
    terms, _ = information(references, others, geometry, shared, lambda joint: joint)
    expected = {}
    for tap, reference, other in zip(information.taps, references, others, strict=True):
        mask = None
        if shared is not None:
            mask = mostly(shared, other.shape[2:]).float()
        (name,) = (n for n in information.weights if n.endswith("bottleneck" if tap == 0 else str(tap)))
        losses = []
        for head in information.heads[name]:
            if tap == 0:
                regions = [4] * 3
                rows = [
                    head(regional_means(x, regions, mask)).movedim(1, -1).flatten(0, -2)
                    for x in (geometry(reference), other)
                ]
                inside = slice(None) if mask is None else regional_means(mask, regions).flatten() > 0
                losses.append(global_mi_loss(rows[0][inside], rows[1][inside]))
            else:
                losses.append(local_mi_loss(head(geometry(reference)), head(other), [1, 1, 1], mask))
        expected[name] = torch.stack(losses).mean()
    assert terms.keys() == expected.keys()
    for name in terms:
        torch.testing.assert_close(terms[name], expected[name])
    found, wanted = (gradients(sum(values.values()), [*references, *others]) for values in (terms, expected))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-8)


def test_sub_heads_of_a_tap_differ():
    heads = information_of(sub_heads=2).heads["mi_stage-1"]
    first, second = (head.layers.weight for head in heads)
    assert not torch.equal(first, second)

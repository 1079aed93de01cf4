"""Boxes of one patch in another."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from nnunetv2_semisup.data.mixing import draw_mix

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")


def draw(seed=0, batch=2, labeled=(0, 1), shape=(9, 12, 6), share=1.0, exchange=0.5, edge=0.67):
    generator = torch.Generator().manual_seed(seed)
    return draw_mix(batch, labeled, shape, generator, CPU, share=share, exchange=exchange, edge=edge)


def maps(batch, offset, shape):
    """Each sample is one number, so that a mixed voxel tells where it comes from."""
    return (torch.arange(batch) + offset).reshape(-1, 1, *[1] * len(shape)).expand(-1, 1, *shape).float()


@pytest.mark.parametrize("shape", [(9, 12), (9, 12, 6)])
def test_every_voxel_comes_from_the_sample_or_from_its_partner(shape):
    kinds = Counter()
    for seed in range(40):
        mix = draw(seed, batch=3, shape=shape)
        mixed = mix(maps(3, 0, shape), maps(2, 10, shape))
        for sample in range(3):
            partner = (10 if mix.labeled[sample] else 0) + mix.partner[sample]
            expected = torch.where(mix.own[sample], float(sample), float(partner))
            assert torch.equal(mixed[sample], expected)
            assert partner != sample
            # The box has two thirds of each edge, and is foreign, or the only part that is the sample's own.
            own, all_voxels = int(mix.own[sample].sum()), mix.own[sample].numel()
            volume = 6 * 8 * (4 if len(shape) == 3 else 1)
            assert own in (volume, all_voxels - volume)
            kinds[(mix.labeled[sample], own == volume)] += 1
    # a labelled box in the patch, the patch's box in a labelled patch, an unlabelled box; and never the fourth
    assert set(kinds) == {(True, False), (True, True), (False, False)}
    assert min(kinds.values()) > 15


def test_shares():
    assert draw(share=0.0).own.all()
    assert not any(draw(seed, exchange=0.0).labeled[0] for seed in range(20))
    assert all(all(draw(seed, exchange=1.0).labeled) for seed in range(20))
    assert all(not draw(seed).own.flatten(1).all(1).any() for seed in range(20))


def test_a_single_sample_is_mixed_with_labelled_ones_only():
    assert draw(batch=1, exchange=0.0).own.all()
    assert not draw(batch=1, exchange=1.0).own.all()


def test_partners_are_the_named_labelled_samples_and_without_any_the_unlabelled_ones():
    mixes = [draw(seed, batch=3, labeled=(1,)) for seed in range(20)]
    lent = [mix.partner[sample] for mix in mixes for sample in range(3) if mix.labeled[sample]]
    assert set(lent) == {1}
    assert len(lent) > 15
    without = [draw(seed, labeled=()) for seed in range(20)]
    assert not any(any(mix.labeled) for mix in without)
    assert not any(mix.own.flatten(1).all(1).any() for mix in without)


def test_masks_and_targets_mix_as_images_do():
    mix = draw(3)
    image, labeled = maps(2, 0, (9, 12, 6)), maps(2, 10, (9, 12, 6))
    mask = mix(image > 100, labeled > 5)
    assert mask.dtype == torch.bool
    assert torch.equal(mask, mix(image, labeled) >= 10)


def test_the_generator_alone_decides():
    state = torch.get_rng_state()
    assert torch.equal(draw(5).own, draw(5).own)
    assert torch.equal(torch.get_rng_state(), state)

"""Sites: means by the definition, and who may stand against whom."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from nnunetv2_semisup.data.cells import place_cells
from nnunetv2_semisup.regularizers.sites import Sites

pytestmark = pytest.mark.fast

SIZE, STRIDE = (8, 20, 12), (4, 4, 4)
CELLS = place_cells(SIZE, STRIDE, (2, 2, 2))
"""Overlapping along y and z of 5 and 3 bottleneck voxels, side by side along the first axis."""


def boxes(sites, stride):
    """Voxels of every site of the patch, and of every site of every cell, as masks by brute force."""
    if stride is None:
        corners = [(cell.start, cell.edge) for cell in CELLS]
        return [mask(*corner) for corner in corners], [mask(*corner) for corner in corners]
    starts = product(*(range(0, n, step) for n, step in zip(SIZE, stride, strict=True)))
    of_patch = [mask(start, stride) for start in starts]
    of_cells = [
        mask(start, stride)
        for cell in CELLS
        for start in product(*(range(a, a + n, step) for a, n, step in zip(cell.start, cell.edge, stride, strict=True)))
    ]
    return of_patch, of_cells


def mask(start, edge):
    found = torch.zeros(SIZE, dtype=torch.bool)
    found[tuple(slice(a, a + n) for a, n in zip(start, edge, strict=True))] = True
    return found


@pytest.mark.parametrize("stride", [(4, 4, 4), (2, 4, 2), None])
@pytest.mark.parametrize("masked", [False, True])
def test_means_are_those_of_a_sites_valid_voxels(stride, masked):
    generator = torch.Generator().manual_seed(0)
    sites = Sites(CELLS, SIZE, stride)
    maps = torch.randn(2, 3, *SIZE, generator=generator)
    valid = torch.rand(2, 1, *SIZE, generator=generator) > 0.5 if masked else torch.ones(2, 1, *SIZE, dtype=torch.bool)
    valid[1, :, :4] = not masked
    given = valid if masked else None
    of_patch, of_cells = boxes(sites, stride)
    found = [sites.of_patch(maps, given)]
    cells = [sites.of_cell(cell(maps), None if given is None else cell(given)) for cell in CELLS]
    found.append(tuple(torch.cat(part, dim=-1) for part in zip(*cells, strict=True)))
    for (means, known), masks in zip(found, (of_patch, of_cells), strict=True):
        assert means.shape == (2, 3, len(masks))
        for b, (site, box) in product(range(2), enumerate(masks)):
            inside = box & valid[b, 0]
            assert known[b, site] == inside.any()
            expected = maps[b][:, inside].mean(1) if inside.any() else torch.zeros(3)
            torch.testing.assert_close(means[b, :, site], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("stride", [(4, 4, 4), (2, 4, 2), None])
def test_sites_that_share_voxels_are_not_apart(stride):
    sites = Sites(CELLS, SIZE, stride)
    of_patch, of_cells = boxes(sites, stride)
    assert len(sites.shown) == len(of_cells)
    for site, box in zip(sites.shown.tolist(), of_cells, strict=True):
        assert torch.equal(of_patch[site], box)
    for (a, first), (b, second) in product(enumerate(of_patch), repeat=2):
        assert bool(sites.apart[a, b]) == (not (first & second).any())


def test_what_follows_from_the_plans_is_not_stored():
    assert not Sites(CELLS, SIZE, None).state_dict()

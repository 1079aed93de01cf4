"""Where cells lie, and that every plan of nnU-Net's has some."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from nnunetv2_semisup.data.cells import Cell, cells_per_axis, place_cells

pytestmark = pytest.mark.fast

PLANS = [
    ((24, 40, 48), (4, 8, 8)),  # the left atrium at a quarter of its resolution: 6, 5 and 6 bottleneck voxels
    ((40, 56, 40), (8, 8, 8)),  # the hippocampus: 5, 7 and 5
    ((128, 128, 128), (32, 32, 32)),
    ((14, 256, 224), (1, 32, 32)),
    ((512, 448), (128, 64)),
]


def coordinates(size):
    """[1, dim, *size], each voxel its own index."""
    return torch.stack(torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij"))[None]


def test_row01_cells_that_do_not_overlap_are_a_partition_row_by_row():
    """B7.5-1, for a patch and a grid that are not cubic."""
    size, stride = (16, 24, 8), (4, 4, 8)
    cells = place_cells(size, stride, (2, 2, 1))
    x = torch.arange(16 * 24 * 8).reshape(1, 1, *size)
    assert [cell.start for cell in cells] == [(0, 0, 0), (0, 12, 0), (8, 0, 0), (8, 12, 0)]
    for cell, (z, y) in zip(cells, product(range(2), range(2)), strict=True):
        assert torch.equal(cell(x), x[:, :, 8 * z : 8 * z + 8, 12 * y : 12 * y + 12])
    rows = [torch.cat([cell(x) for cell in cells[i : i + 2]], dim=3) for i in (0, 2)]
    assert torch.equal(torch.cat(rows, dim=2), x)


@pytest.mark.parametrize(("size", "stride"), PLANS)
def test_the_rule_by_a_coordinate_image(size, stride):
    """Edges are the smallest multiple of the stride from half the patch on; one cell at either end of each axis."""
    image = coordinates(size)
    cells = place_cells(size, stride, (2,) * len(size))
    seen = torch.zeros(size, dtype=torch.int)
    for cell in cells:
        crop = cell(image)
        low, high = (crop.flatten(2).amin(2)[0].tolist(), crop.flatten(2).amax(2)[0].tolist())
        assert tuple(low) == cell.start
        seen[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] += 1
        for axis, (n, step) in enumerate(zip(size, stride, strict=True)):
            edge = high[axis] - low[axis] + 1
            assert edge == min(m for m in range(step, n + step, step) if m >= n / 2)
            assert low[axis] == 0 or high[axis] == n - 1
    assert (seen > 0).all()
    assert len(cells) == len({cell.start for cell in cells}) == 2 ** len(size)


def test_one_cell_along_an_axis():
    for per_axis in ((1, 2, 2), (2, 2, 2)):
        # Six bottleneck voxels along z, or one.
        stride = (1, 4, 4) if per_axis[0] == 1 else (6, 4, 4)
        cells = place_cells((6, 24, 24), stride, per_axis)
        assert len(cells) == 4
        assert all(cell.edge == (6, 12, 12) for cell in cells)


def test_flat_patches_keep_their_short_axis_whole():
    assert cells_per_axis((14, 256, 224)) == [1, 2, 2]
    assert cells_per_axis((24, 40, 48)) == [2, 2, 2]
    assert cells_per_axis((512, 448)) == [2, 2]


@pytest.mark.parametrize("dim", [2, 3])
def test_every_plan_of_nnunets_has_cells_with_more_than_one_voxel_at_the_bottleneck(dim):
    """Its own rule for strides and patch sizes, over random spacings and first guesses of the patch."""
    generator = np.random.default_rng(0)
    for _ in range(300):
        spacing = generator.uniform(0.4, 6, dim)
        # nnU-Net pools down to an edge of 4, so a patch has at least as much.
        guess = generator.integers(4, 320, dim)
        *_, patch_size, divisible_by = get_pool_and_conv_props(spacing, guess, 4, 999999)
        patch_size, stride = [int(n) for n in patch_size], [int(n) for n in divisible_by]
        cells = place_cells(patch_size, stride, cells_per_axis(patch_size))
        assert len(cells) > 1
        assert np.prod([edge // step for edge, step in zip(cells[0].edge, stride, strict=True)]) > 1
        for cell in cells:
            for values in (cell.start, cell.edge):
                assert all(value % step == 0 for value, step in zip(values, stride, strict=True))


def test_sharing_voxels_is_what_masks_say():
    cells = place_cells((24, 40, 48), (4, 8, 8), (2, 2, 2))
    masks = []
    for cell in cells:
        mask = torch.zeros(24, 40, 48, dtype=torch.bool)
        mask[tuple(slice(a, a + n) for a, n in zip(cell.start, cell.edge, strict=True))] = True
        masks.append(mask)
    for (a, first), (b, second) in product(zip(cells, masks, strict=True), repeat=2):
        assert a.shares_voxels(b) == bool((first & second).any())
    # Five bottleneck voxels along y: the two cells of an otherwise equal pair overlap.
    assert cells[0].shares_voxels(cells[2])
    assert not cells[0].shares_voxels(cells[1])


def test_a_coarser_map_is_cropped_where_the_patch_is():
    cells = place_cells((24, 40, 48), (4, 8, 8), (2, 2, 2))
    image = coordinates((24, 40, 48)).float()
    coarse = torch.nn.functional.avg_pool3d(image, (4, 8, 8))
    for cell in cells:
        assert torch.equal(cell(coarse, (4, 8, 8)), torch.nn.functional.avg_pool3d(cell(image), (4, 8, 8)))


@pytest.mark.parametrize("margin", [0, 1, 3])
def test_the_margin_is_taken_where_a_cell_ends_within_the_patch_and_not_at_the_patchs_own_border(margin):
    size = (8, 12)
    for cell in place_cells(size, (4, 4), (2, 2)):
        inner = cell.without_margin(margin, size)
        kept = inner(cell(coordinates(size)))[0].flatten(1).T.tolist()
        inside = list(product(*(range(a, a + n) for a, n in zip(cell.start, cell.edge, strict=True))))
        outside = set(product(*map(range, size))) - set(inside)
        # As far from every voxel of the patch that the cell lacks.
        expected = [
            list(v) for v in inside if all(max(abs(a - b) for a, b in zip(v, w, strict=True)) > margin for w in outside)
        ]
        assert kept == expected


def test_a_crop_is_contiguous():
    """A compiled network guards on strides."""
    assert Cell((0, 2), (2, 2))(torch.zeros(1, 3, 4, 4)).is_contiguous()

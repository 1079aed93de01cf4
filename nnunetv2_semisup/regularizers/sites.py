"""Sites: where a patch and its cells are compared, and which of them may stand against each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunetv2_semisup.data.cells import Cell
from nnunetv2_semisup.networks.pooling import regional_means


class Sites(nn.Module):
    """Regions over which the features of a patch, and those of its cells, are averaged.

    On a grid every site of the patch is in one cell or, where cells overlap, in several. Without a grid each cell is
    one site.

    Attributes:
        shown: [N], for each site of each cell, one cell after the other, the site of the patch that it shows.
        apart: [G, G], bool, which two sites of the patch share no voxel.
    """

    shown: Tensor
    apart: Tensor

    def __init__(self, cells: Sequence[Cell], patch_size: Sequence[int], stride: Sequence[int] | None) -> None:
        """Lay out sites.

        Args:
            cells: of the patch.
            patch_size: in voxels.
            stride: voxels per site and axis, of which starts and edges of the cells are multiples; None: no grid.
        """
        super().__init__()
        self._cells = cells
        self._stride = stride
        if stride is None:
            shown = torch.arange(len(cells))
            apart = torch.tensor([[not a.shares_voxels(b) for b in cells] for a in cells])
        else:
            grid = [size // step for size, step in zip(patch_size, stride, strict=True)]
            sites = torch.arange(torch.Size(grid).numel())
            shown = torch.cat([cell(sites.reshape(grid), stride).flatten() for cell in cells])
            apart = sites[:, None] != sites
        # Not in the checkpoint: they follow from the plans and the settings.
        self.register_buffer("shown", shown, persistent=False)
        self.register_buffer("apart", apart, persistent=False)

    def of_patch(self, maps: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Means of a patch's maps [B, C, *patch] over its sites, [B, C, G], and which have a valid voxel, [B, G]."""
        if self._stride is not None:
            return self._means(maps, valid)
        crops = [(cell(maps), None if valid is None else cell(valid)) for cell in self._cells]
        means, known = zip(*(self._means(*crop) for crop in crops), strict=True)
        return torch.cat(means, dim=-1), torch.cat(known, dim=-1)

    def of_cell(self, maps: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same of the maps [B, C, *edge] of one cell over its own sites."""
        return self._means(maps, valid)

    def _means(self, maps: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        size = maps.shape[2:]
        regions = [n // step for n, step in zip(size, self._stride or size, strict=True)]
        if valid is None:
            means = regional_means(maps, regions).flatten(2)
            return means, torch.ones_like(means[:, 0], dtype=torch.bool)
        mask = valid.float()
        means = regional_means(maps, regions, mask).flatten(2)
        return means, regional_means(mask, regions).flatten(1) > 0

"""Cross-level contrast and consistency (Zhao et al. 2022): a patch, and cells of it seen by themselves, shall agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from nnunetv2_semisup.configuration.settings import Auto, Count, Section, SemiSupervisedSettings, Share, Weight
from nnunetv2_semisup.data.cells import Cell
from nnunetv2_semisup.data.views import View
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.losses.consistency import mse_consistency
from nnunetv2_semisup.losses.info_nce import Norm, info_nce
from nnunetv2_semisup.losses.masking import masked, masked_mean
from nnunetv2_semisup.losses.precision import without_autocast
from nnunetv2_semisup.networks.heads import ProjectionHead
from nnunetv2_semisup.regularizers.base import Facts, Outcome, Outline, Regularizer, Step
from nnunetv2_semisup.regularizers.cells import CellsSettings, boxed
from nnunetv2_semisup.regularizers.phases import switch_epoch
from nnunetv2_semisup.regularizers.signs import AGREEMENT, foreground_alarm, foreground_share
from nnunetv2_semisup.regularizers.sites import Sites
from nnunetv2_semisup.regularizers.taps import BOTTLENECK, refuse_missing_taps

TAP = -1
"""The last decoder stage, whose features are contrasted."""
FEWEST_SITES = 256
"""Sites on a patch that "auto" asks for: so many negatives, less one, has an anchor."""
MOST_SITES = 4096
"""Every site is compared with every other: a table of so many squared takes 64 MB for each sample."""
FEWEST_SAMPLES = 2
"""That go through the network at once: on a CPU, torch convolves a batch of one sample several times slower."""
NEAR = 0.05
"""Distance at which a sign of life counts as at its limit."""
CONTRAST_SIGNS = ("positive_cosine", "negative_cosine", "share_of_chance")
VIEWS: Mapping[str, tuple[View, ...]] = {
    "same": ("stock",),
    "independent": ("stock", "stock"),
    "weak_to_strong": ("plain", "strong"),
}


class PhasesSettings(Section):
    """When which of the two terms is on."""

    form: Literal["simultaneous", "contrast_first"] = Field(
        description='"simultaneous": both terms all the time. "contrast_first": contrast alone, then consistency alone '
        "(the paper)."
    )
    switch: Share = Field(
        description='In the form "contrast_first", the share of the training with contrast; the rest has consistency.'
    )


class ContrastSettings(Section):
    """Agreement of the embeddings of a patch and of its cells."""

    weight: Weight = Field(description="Weight of the contrast.")
    temperature: Annotated[float, Field(gt=0, le=10)] = Field(description="Temperature of the contrast.")
    negatives: Literal["image", "patch"] = Field(
        description='What an anchor shall differ from. "image": other sites of the patch, with gradient. "patch": '
        "other sites as the cells show them, without."
    )
    norm: Norm = Field(description="To which norm embeddings are scaled.")
    sites: int | Auto | Literal["cells"] = Field(
        description='Where embeddings are made. A level of the network: on a grid with its strides. "auto": the '
        f'coarsest level with at least {FEWEST_SITES} sites on a patch. "cells": one for each cell (the paper).'
    )
    dimensions: Count = Field(description="Length of an embedding.")

    def sites_for(self, level_voxels: Sequence[int]) -> int | Literal["cells"]:
        """The level on whose grid the sites lie, of a network with so many voxels of a patch at each level."""
        if self.sites != "auto":
            return self.sites
        levels = len(level_voxels)
        level = next((level for level, voxels in enumerate(level_voxels) if voxels >= FEWEST_SITES), levels - 1)
        return BOTTLENECK if level == BOTTLENECK else level - levels


class ConsistencySettings(Section):
    """Agreement of the predictions on a patch and on its cells."""

    weight: Weight = Field(description="Weight of the mean squared difference of the probabilities.")
    margin: Annotated[int, Field(ge=0)] = Field(
        description="Voxels that do not count where a cell ends within the patch: zeros are all that convolutions see "
        "beyond."
    )


class ViewsSettings(Section):
    """What the two levels see."""

    form: Literal["same", "independent", "weak_to_strong"] = Field(
        description='"same": cells are cut from the very patch (the paper). "independent": intensities of patch and '
        'cells are augmented independently. "weak_to_strong": the patch not at all, the cells strongly.'
    )
    labeled: bool = Field(
        description="Whether the labelled patches take part as well (the paper), in one view for both levels."
    )


class CrossLevelSettings(SemiSupervisedSettings):
    """Settings of nnUNetTrainerCrossLevel."""

    phases: PhasesSettings
    cells: CellsSettings
    contrast: ContrastSettings
    consistency: ConsistencySettings
    views: ViewsSettings


class CrossLevel(Regularizer):
    """Contrast of a patch's embeddings with those of its cells, and consistency of the cells' predictions with it.

    Zhao et al., "Cross-level contrastive learning and consistency constraint", ISBI 2022. One network sees a patch and,
    one after the other, cells of it; the cells' embeddings and the patch's prediction are targets without gradient.

    Departures from paper and released code are listed in docs/explanation/crosslevel.md.
    """

    Settings = CrossLevelSettings

    def __init__(self, settings: CrossLevelSettings, facts: Facts) -> None:
        """Place cells and sites, and build the projection head, for resolved settings."""
        super().__init__(settings, facts)
        contrast = settings.contrast
        self._weights = {"contrast": contrast.weight, "consistency": settings.consistency.weight}
        self.views = VIEWS[settings.views.form]
        self._switch = None
        self.gradient_views = max(sum(weight > 0 for weight in self._weights.values()), 1)
        if settings.phases.form == "contrast_first":
            self._switch = switch_epoch(facts.num_epochs, settings.schedule.warmup, settings.phases.switch)
            self.gradient_views = 1
        self._cells = settings.cells.place(facts.patch_size, facts.levels.strides[0])
        # Without a contrast the cells themselves, which are few: nothing is contrasted.
        of_cells = contrast.weight == 0 or contrast.sites == "cells"
        stride = None if of_cells else facts.levels.strides[int(contrast.sites)]
        self._sites = Sites(self._cells, facts.patch_size, stride)
        self.sign_names: Sequence[str] = AGREEMENT
        if contrast.weight > 0:
            self.sign_names = (*AGREEMENT, *CONTRAST_SIGNS)
            self.head = ProjectionHead(facts.levels.channels[TAP], contrast.dimensions)

    @classmethod
    def check(cls, settings: CrossLevelSettings, outline: Outline) -> None:
        """Refuse plans without cells, cells that leave nothing to contrast or compare, and a phase without a term."""
        cells = settings.cells.check(outline)
        _check_margin(settings.consistency.margin, cells[0], outline.patch_size)
        if settings.contrast.weight > 0:
            _check_sites(settings.contrast, cells, outline)
        weights = settings.contrast.weight, settings.consistency.weight
        if settings.phases.form == "contrast_first" and min(weights) == 0 < max(weights):
            raise SemiSupervisedError(
                'phases.form = "contrast_first" needs contrast.weight and consistency.weight above 0; for one term '
                'alone set phases.form to "simultaneous"'
            )

    @classmethod
    def resolve(cls, settings: CrossLevelSettings, facts: Facts) -> CrossLevelSettings:
        """Cells from the patch, sites from the network's levels."""
        voxels = [
            math.prod(size // step for size, step in zip(facts.patch_size, stride, strict=True))
            for stride in facts.levels.strides
        ]
        contrast = settings.contrast.model_copy(update={"sites": settings.contrast.sites_for(voxels)})
        return settings.model_copy(update={"cells": settings.cells.resolved(facts.patch_size), "contrast": contrast})

    @property
    def weights(self) -> Mapping[str, float]:
        """Two terms."""
        return self._weights

    def forward(self, step: Step) -> Outcome:
        """The terms of this epoch's phase."""
        wanted = self._wanted(step.progress)
        patch, image, valid = self._levels(step)
        # The patch learns from the contrast, its cells from the consistency; what does not learn needs no graph.
        with torch.set_grad_enabled("contrast" in wanted):
            logits, (features,) = step.student(patch, (TAP,))
        reference = logits.detach()
        with torch.set_grad_enabled("consistency" in wanted):
            seen = [self._see(step, cells, image, reference, valid) for cells in self._groups(len(image))]
        terms, signs = {}, self._agreement(reference, valid, seen)
        if "contrast" in wanted:
            terms["contrast"], found = self._contrast(features, valid, seen)
            signs |= found
        if "consistency" in wanted:
            terms["consistency"] = torch.stack([group.consistency for group in seen]).sum()
        return Outcome(terms, signs)

    def _wanted(self, progress: float) -> set[str]:
        """Names of the terms that are on."""
        positive = {name for name, weight in self._weights.items() if weight > 0}
        if self._switch is None:
            return positive
        switched = round(progress * self.facts.num_epochs) >= self._switch
        return positive & {"consistency" if switched else "contrast"}

    def _levels(self, step: Step) -> tuple[Tensor, Tensor, Tensor | None]:
        """The images that are seen whole, those that cells are cut from, and where both are valid."""
        patch, image, valid = step.views[0], step.views[-1], step.valid
        if self.settings.views.labeled:
            assert step.labeled is not None  # trains beside supervised training only
            labeled = step.labeled.images
            patch, image = torch.cat([patch, labeled]), torch.cat([image, labeled])
            if valid is not None:
                valid = torch.cat([valid, torch.ones_like(labeled[:, :1], dtype=torch.bool)])
        return patch, image, valid

    def _groups(self, batch_size: int) -> Sequence[Sequence[Cell]]:
        """Cells that go through the network at once: one, or two where each is a single sample."""
        size = max(FEWEST_SAMPLES // batch_size, 1)
        return [self._cells[first : first + size] for first in range(0, len(self._cells), size)]

    def _see(self, step: Step, cells: Sequence[Cell], image: Tensor, reference: Tensor, valid: Tensor | None) -> _Seen:
        """A few cells through the network, compared with the patch's logits. No other cell's graph is alive."""
        logits, (features,) = step.student(_cut(cells, image), (TAP,))
        theirs, known = _cut(cells, reference), None if valid is None else _cut(cells, valid)
        consistency = logits.new_zeros(())
        if torch.is_grad_enabled():
            p, target = (self.facts.probabilities(self._inside(cells, x)) for x in (logits, theirs))
            difference = mse_consistency(p, target, None if known is None else self._inside(cells, known))
            consistency = step.settle("consistency", self._share(cells, valid) * difference)
        with torch.no_grad():
            first, second = (masked(self.facts.foreground(x).float(), known) for x in (logits, theirs))
            foregrounds = torch.stack([(first * second).sum(), first.sum(), second.sum()])
            sites = self._sites.of_cell(features, known)
            return _Seen(consistency, foregrounds, *(torch.cat(x.chunk(len(cells)), dim=-1) for x in sites))

    def _inside(self, cells: Sequence[Cell], maps: Tensor) -> Tensor:
        """What the margin leaves of maps [cells * B, C, *edge]."""
        margin, patch_size = self.settings.consistency.margin, self.facts.patch_size
        crops = zip(cells, maps.chunk(len(cells)), strict=True)
        return torch.cat([cell.without_margin(margin, patch_size)(crop) for cell, crop in crops])

    def _share(self, cells: Sequence[Cell], valid: Tensor | None) -> Tensor | float:
        """Of these cells in the consistency, which is a mean over the valid voxels of all."""
        if valid is None:
            return len(cells) / len(self._cells)
        own, total = (self._inside(some, _cut(some, valid)).sum() for some in (cells, self._cells))
        return own / total.clamp_min(1)

    def _contrast(
        self, features: Tensor, valid: Tensor | None, seen: Sequence[_Seen]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE of the patch's sites against those of its cells, and the signs named in CONTRAST_SIGNS."""
        settings, shown = self.settings.contrast, self._sites.shown
        means, known = self._sites.of_patch(features, valid)
        patch = self.head(means)
        with torch.no_grad():
            cells = self.head(torch.cat([group.means for group in seen], dim=-1))
        anchors = patch.index_select(1, shown)
        counted = known[:, shown] & torch.cat([group.known for group in seen], dim=-1)
        if settings.negatives == "image":
            negatives, apart = patch, self._sites.apart[shown] & known[:, None]
        else:
            negatives, apart = cells, self._sites.apart[shown][:, shown] & counted[:, None]
        term = info_nce(anchors, cells, negatives, apart, settings.temperature, settings.norm, counted)
        with torch.no_grad(), without_autocast(patch):
            a, p, n = (F.normalize(x, dim=-1) for x in (anchors, cells, negatives))
            positive = masked_mean((a * p).sum(dim=-1)[:, None], counted[:, None])
            negative = masked_mean((a @ n.transpose(1, 2))[:, None], (apart & counted[..., None])[:, None])
            chance = masked_mean((1 + apart.sum(dim=-1)).float().log()[:, None], counted[:, None])
            share = term / chance.clamp_min(1e-6)
        return term, dict(zip(CONTRAST_SIGNS, (positive, negative, share), strict=True))

    def _agreement(self, reference: Tensor, valid: Tensor | None, seen: Sequence[_Seen]) -> dict[str, Tensor]:
        """The signs named in AGREEMENT: what the patch's logits say, and how far the cells' agree with them."""
        both, ours, theirs = torch.stack([group.foregrounds for group in seen]).sum(dim=0)
        share = foreground_share(self.facts, reference, valid)
        return dict(zip(AGREEMENT, (share, 2 * both / (ours + theirs).clamp_min(1)), strict=True))

    def alarms(self, signs: Mapping[str, float]) -> list[str]:
        """Collapse of the network or of the embeddings, and a contrast that is too easy to teach anything."""
        found = foreground_alarm(signs["foreground"], "lower consistency.weight")
        if "share_of_chance" not in signs:
            return found
        share, positive, negative = (signs[name] for name in ("share_of_chance", *CONTRAST_SIGNS[:2]))
        cosines = f"an embedding's cosine with its partner is {positive:.2f}, with others {negative:.2f}"
        if min(share, negative) > 1 - NEAR:
            found.append(
                f"the embeddings have collapsed ({cosines}): the contrast teaches nothing; raise contrast.weight or "
                "contrast.temperature"
            )
        elif share < NEAR:
            found.append(
                f"the contrast is solved ({cosines}; the loss is {share:.1%} of what guessing gives): it teaches "
                'hardly anything any more; let the levels see different intensities (views.form = "weak_to_strong")'
            )
        return found


@dataclass(frozen=True)
class _Seen:
    """What is kept of cells that went through the network at once.

    Attributes:
        consistency: their part of the term.
        foregrounds: voxels of foreground: common, the cells' and the patch's.
        means: of the features over the cells' sites, [B, C, n], without gradient.
        known: which of the sites have a valid voxel, [B, n].
    """

    consistency: Tensor
    foregrounds: Tensor
    means: Tensor
    known: Tensor


def _cut(cells: Sequence[Cell], maps: Tensor) -> Tensor:
    """Crops of maps [B, C, *patch], [cells * B, C, *edge]."""
    return torch.cat([cell(maps) for cell in cells])


def _check_margin(margin: int, cell: Cell, patch_size: Sequence[int]) -> None:
    """Refuse a margin of cells of this size beyond which nothing is left."""
    most = min(edge for edge, size in zip(cell.edge, patch_size, strict=True) if edge < size) - 1
    if margin > most:
        raise SemiSupervisedError(
            f"consistency.margin = {margin} is not allowed: cells have {boxed(cell.edge)} voxels, and nothing would be "
            f"left of them; allowed is up to {most}"
        )


def _check_sites(contrast: ContrastSettings, cells: Sequence[Cell], outline: Outline) -> None:
    """Refuse a contrast without negatives, and one with too many."""
    sites = contrast.sites_for(outline.level_voxels)
    if sites == "cells":
        if all(a.shares_voxels(b) for a in cells for b in cells):
            raise SemiSupervisedError(
                'contrast.sites = "cells" is not allowed: every two cells of these plans share voxels, so nothing is '
                'left to contrast; set contrast.sites to "auto"'
            )
        return
    refuse_missing_taps("contrast.sites", [sites], outline)
    count = outline.level_voxels[sites]
    if count > MOST_SITES:
        raise SemiSupervisedError(
            f"contrast.sites = {sites} is not allowed: a patch has {count} sites there, and comparing each with every "
            f'other takes {4 * count**2 / 2**30:.1f} GB for each sample; take a coarser level, or "auto"'
        )

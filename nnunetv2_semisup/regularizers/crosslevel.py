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
from nnunetv2_semisup.data.cells import Cell, cells_per_axis, place_cells
from nnunetv2_semisup.data.views import View
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.losses.consistency import mse_consistency
from nnunetv2_semisup.losses.info_nce import Norm, info_nce
from nnunetv2_semisup.losses.masking import masked, masked_mean
from nnunetv2_semisup.networks.heads import ProjectionHead
from nnunetv2_semisup.regularizers.base import Facts, Outcome, Outline, Regularizer, Step
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


class CellsSettings(Section):
    """Cells of a patch."""

    per_axis: list[Annotated[int, Field(ge=1, le=2)]] | Auto = Field(
        description="Cells per axis, 1 or 2. Their edges are multiples of the network's stride and at least half of "
        'the patch, so that they may overlap. "auto": 2, but 1 along an axis where the patch is less than a third of '
        "its longest edge."
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
        self._cells = _cells(settings, facts.patch_size, facts.levels.strides[0])
        self._inner = [cell.without_margin(settings.consistency.margin, facts.patch_size) for cell in self._cells]
        stride = None if contrast.sites == "cells" else facts.levels.strides[int(contrast.sites)]
        self._sites = Sites(self._cells, facts.patch_size, stride)
        self.sign_names: Sequence[str] = AGREEMENT
        if contrast.weight > 0:
            self.sign_names = (*AGREEMENT, *CONTRAST_SIGNS)
            self.head = ProjectionHead(facts.levels.channels[TAP], contrast.dimensions)

    @classmethod
    def check(cls, settings: CrossLevelSettings, outline: Outline) -> None:
        """Refuse plans without cells, cells that leave nothing to contrast or compare, and a phase without a term."""
        _check_cells(settings, outline)
        if settings.contrast.weight > 0:
            _check_sites(settings, outline)
        weights = settings.contrast.weight, settings.consistency.weight
        if settings.phases.form == "contrast_first" and min(weights) == 0 < max(weights):
            raise SemiSupervisedError(
                'phases.form = "contrast_first" needs contrast.weight and consistency.weight above 0; for one term '
                'alone set phases.form to "simultaneous"'
            )

    @classmethod
    def resolve(cls, settings: CrossLevelSettings, facts: Facts) -> CrossLevelSettings:
        """Cells from the patch, sites from the network's levels."""
        sites = _sites(settings, [_count(facts.patch_size, stride) for stride in facts.levels.strides])
        contrast = settings.contrast.model_copy(update={"sites": sites})
        cells = settings.cells.model_copy(update={"per_axis": _per_axis(settings, facts.patch_size)})
        return settings.model_copy(update={"cells": cells, "contrast": contrast})

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
            seen = [
                self._see(step, index, image, reference, valid, share)
                for index, share in enumerate(self._shares(valid))
            ]
        terms, signs = {}, self._agreement(reference, valid, seen)
        if "contrast" in wanted:
            terms["contrast"], found = self._contrast(features, valid, seen)
            signs |= found
        if "consistency" in wanted:
            terms["consistency"] = torch.stack([cell.consistency for cell in seen]).sum()
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

    def _shares(self, valid: Tensor | None) -> Sequence[Tensor | float]:
        """Of the cells in the consistency, which is a mean over the valid voxels of all of them."""
        if valid is None:
            return [1 / len(self._cells)] * len(self._cells)
        counts = torch.stack([inner(cell(valid)).sum() for cell, inner in zip(self._cells, self._inner, strict=True)])
        return list(counts / counts.sum().clamp_min(1))

    def _see(
        self, step: Step, index: int, image: Tensor, reference: Tensor, valid: Tensor | None, share: Tensor | float
    ) -> _Seen:
        """One cell through the network, compared with the patch's logits. No other cell's graph is alive."""
        cell, inner = self._cells[index], self._inner[index]
        logits, (features,) = step.student(cell(image), (TAP,))
        reference, valid = cell(reference), None if valid is None else cell(valid)
        consistency = logits.new_zeros(())
        if torch.is_grad_enabled():
            p, target = (self.facts.probabilities(inner(x)) for x in (logits, reference))
            difference = mse_consistency(p, target, None if valid is None else inner(valid))
            consistency = step.settle("consistency", share * difference)
        with torch.no_grad():
            ours, theirs = (masked(self.facts.foreground(x).float(), valid) for x in (logits, reference))
            foregrounds = torch.stack([(ours * theirs).sum(), ours.sum(), theirs.sum()])
            return _Seen(consistency, foregrounds, *self._sites.of_cell(features, valid))

    def _contrast(
        self, features: Tensor, valid: Tensor | None, seen: Sequence[_Seen]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE of the patch's sites against those of its cells, and the signs named in CONTRAST_SIGNS."""
        settings, shown = self.settings.contrast, self._sites.shown
        means, known = self._sites.of_patch(features, valid)
        patch = self.head(means)
        with torch.no_grad():
            cells = self.head(torch.cat([cell.means for cell in seen], dim=-1))
        anchors = patch.index_select(1, shown)
        counted = known[:, shown] & torch.cat([cell.known for cell in seen], dim=-1)
        if settings.negatives == "image":
            negatives, apart = patch, self._sites.apart[shown] & known[:, None]
        else:
            negatives, apart = cells, self._sites.apart[shown][:, shown] & counted[:, None]
        term = info_nce(anchors, cells, negatives, apart, settings.temperature, settings.norm, counted)
        with torch.no_grad():
            a, p, n = (F.normalize(x.detach(), dim=-1) for x in (anchors, cells, negatives))
            chance = (1 + apart.sum(dim=-1)).float().log()
            signs = (
                masked_mean((a * p).sum(dim=-1)[:, None], counted[:, None]),
                masked_mean((a @ n.transpose(1, 2))[:, None], (apart & counted[..., None])[:, None]),
                term.detach() / masked_mean(chance[:, None], counted[:, None]).clamp_min(1e-6),
            )
        return term, dict(zip(CONTRAST_SIGNS, signs, strict=True))

    def _agreement(self, reference: Tensor, valid: Tensor | None, seen: Sequence[_Seen]) -> dict[str, Tensor]:
        """The signs named in AGREEMENT: what the patch's logits say, and how far the cells' agree with them."""
        both, ours, theirs = torch.stack([cell.foregrounds for cell in seen]).sum(dim=0)
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
    """What is kept of a cell: its part of the consistency, voxels of foreground (common, its own, the patch's), and the
    means of its features over its sites [B, C, n] with which of them are known [B, n]."""

    consistency: Tensor
    foregrounds: Tensor
    means: Tensor
    known: Tensor


def _per_axis(settings: CrossLevelSettings, patch_size: Sequence[int]) -> Sequence[int]:
    return cells_per_axis(patch_size) if settings.cells.per_axis == "auto" else settings.cells.per_axis


def _cells(settings: CrossLevelSettings, patch_size: Sequence[int], stride: Sequence[int]) -> tuple[Cell, ...]:
    return place_cells(patch_size, stride, _per_axis(settings, patch_size))


def _count(size: Sequence[int], stride: Sequence[int]) -> int:
    """Boxes of this size in a box of that."""
    return math.prod(n // step for n, step in zip(size, stride, strict=True))


def _sites(settings: CrossLevelSettings, level_voxels: Sequence[int]) -> int | Literal["cells"]:
    """The level whose grid the sites lie on."""
    chosen = settings.contrast.sites
    if chosen != "auto":
        return chosen
    levels = len(level_voxels)
    level = next((level for level, voxels in enumerate(level_voxels) if voxels >= FEWEST_SITES), levels - 1)
    return BOTTLENECK if level == BOTTLENECK else level - levels


def _check_cells(settings: CrossLevelSettings, outline: Outline) -> None:
    """Refuse plans and settings that leave no two levels."""
    patch_size, stride = outline.patch_size, outline.level_strides[0]
    per_axis = _per_axis(settings, patch_size)
    given = f"a patch of {_x(patch_size)} voxels and a network of stride {_x(stride)}"
    if len(per_axis) != len(patch_size):
        raise SemiSupervisedError(
            f"cells.per_axis = {per_axis} is not allowed: a patch has {len(patch_size)} axes; give a number for each"
        )
    if any(size % step for size, step in zip(patch_size, stride, strict=True)):
        raise SemiSupervisedError(
            f"{given} cannot be divided into cells, since the patch is no multiple of the stride; change patch_size in "
            "the plans"
        )
    cells = _cells(settings, patch_size, stride)
    if len(cells) == 1:
        raise SemiSupervisedError(
            f"{given} leave a single cell, the patch itself, with cells.per_axis = {per_axis}; use 2 along an axis of "
            "at least twice the stride, or plan with larger patches"
        )
    if _count(cells[0].edge, stride) == 1:
        raise SemiSupervisedError(
            f"{given} leave cells of {_x(cells[0].edge)} voxels, a single voxel at the bottleneck, which instance "
            "normalisation refuses; set cells.per_axis to 1 along an axis, or plan with larger patches"
        )
    margin = settings.consistency.margin
    split = [edge for edge, size in zip(cells[0].edge, patch_size, strict=True) if edge < size]
    if margin >= min(split):
        raise SemiSupervisedError(
            f"consistency.margin = {margin} is not allowed: cells have {_x(cells[0].edge)} voxels, and nothing would "
            f"be left of them; allowed is up to {min(split) - 1}"
        )


def _check_sites(settings: CrossLevelSettings, outline: Outline) -> None:
    """Refuse a contrast without negatives, and one with too many."""
    sites = _sites(settings, outline.level_voxels)
    if sites == "cells":
        cells = _cells(settings, outline.patch_size, outline.level_strides[0])
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


def _x(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))

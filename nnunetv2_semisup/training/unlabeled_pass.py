"""One unlabelled batch through the network and the regularizers, and its gradients onto the network's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_semisup.data.views import View
from nnunetv2_semisup.losses.precision import without_autocast
from nnunetv2_semisup.regularizers.base import Forward, Labeled, Regularizer, Step
from nnunetv2_semisup.training.cost import Cost
from nnunetv2_semisup.training.distributed import summed
from nnunetv2_semisup.training.run_log import EpochMeans

FeaturesCall = Callable[[nn.Module, Tensor, tuple[int, ...]], tuple[Tensor, list[Tensor]]]


def kinds_of(regularizers: Sequence[Regularizer]) -> tuple[View, ...]:
    """The fewest views that hold, for each regularizer, those that it asks for."""
    most: Counter[View] = Counter()
    for regularizer in regularizers:
        most |= Counter(regularizer.views)
    return tuple(most.elements())


def chosen(wanted: Sequence[View], kinds: Sequence[View], views: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of views of these kinds, each once, those of the wanted kinds in the wanted order."""
    left = {kind: [view for k, view in zip(kinds, views, strict=True) if k == kind] for kind in set(kinds)}
    return tuple(left[kind].pop(0) for kind in wanted)


def log_gradient_norms(
    means: EpochMeans,
    weighted: Mapping[str, Tensor],
    tapped: Sequence[Tensor],
    scaled: Callable[[Tensor], Tensor],
    settled: Mapping[str, Tensor] | None = None,
) -> None:
    """Add to the means, as grad/TERM, the norm of each weighted term's gradient at the tapped features and logits.

    Args:
        means: of the epoch.
        weighted: the terms; one without a gradient is left out.
        tapped: what the terms may read.
        scaled: nnU-Net's loss scaling.
        settled: squared norms of parts of terms whose backward has been done, by name.
    """
    squares = dict(settled or {})
    for name, term in weighted.items():
        if term.requires_grad:
            _add_squares(squares, name, term, tapped, scaled)
    for name, square in squares.items():
        means.add(f"grad/{name}", square.sqrt())


@dataclass(frozen=True)
class Networks:
    """The networks of a training, without wrappers.

    Attributes:
        student: nnU-Net's own.
        teacher: its EMA copy, where a regularizer asks for one.
        second_decoder: a network with another decoder on its encoder, where a regularizer asks for one.
        peer: the second network, where a regularizer asks for one.
    """

    student: nn.Module
    teacher: nn.Module | None = None
    second_decoder: nn.Module | None = None
    peer: nn.Module | None = None


@dataclass
class UnlabeledPass:
    """Forward, weighted sum and backward of all terms; what they were goes into `means`.

    Attributes:
        regularizers: on the device.
        kinds: of the views in a batch, from `kinds_of`.
        forward: logits and features of a network, compiled or not.
        generator: CPU generator of the regularizers' draws.
        means: of the epoch.
        cost: of the training.
    """

    regularizers: Sequence[Regularizer]
    kinds: Sequence[View]
    forward: FeaturesCall
    generator: torch.Generator
    means: EpochMeans
    cost: Cost

    def backward(
        self,
        batch: Mapping[str, Any],
        labeled: Labeled | None,
        networks: Networks,
        *,
        factor: float,
        progress: float,
        number: int,
        device: torch.device,
        autocast: AbstractContextManager[Any],
        scaled: Callable[[Tensor], Tensor],
        log_gradients: bool,
    ) -> Tensor:
        """Add the gradients of `factor` times the weighted terms to those of the student and the heads.

        Args:
            batch: of the unlabelled loader.
            labeled: the labelled batch of this step, on the device; None in a training without labels.
            networks: on the device.
            factor: of the schedule, in (0, 1].
            progress: share of the epochs that are over.
            number: optimiser steps before this one.
            device: of the networks.
            autocast: nnU-Net's, entered for the forward.
            scaled: nnU-Net's loss scaling; the identity without mixed precision.
            log_gradients: whether to measure each term's gradient at the features and logits that it reads, which
                costs a backward of the term to there.

        Returns the sum of the weighted terms, detached.
        """
        of_labeled = [] if labeled is None or labeled.features is None else [labeled.features]
        tapped: list[Tensor] | None = of_labeled if log_gradients else None
        squares: dict[str, Tensor] = {}
        patch_voxels = batch["views"][0][0, 0].numel()
        views = [view.to(device, non_blocking=True) for view in batch["views"]]
        labels = batch["pseudo_label"]
        step = partial(
            Step,
            valid=None if bool(batch["valid"].all()) else batch["valid"].to(device, non_blocking=True),
            student=partial(self._student, networks.student, tapped, patch_voxels),
            teacher=self._without_gradient(networks.teacher, patch_voxels),
            second_decoder=self._without_gradient(networks.second_decoder, patch_voxels),
            peer=None if networks.peer is None else partial(self._student, networks.peer, tapped, patch_voxels),
            labeled=labeled,
            pseudo_label=None if labels is None else labels.to(device, non_blocking=True),
            progress=progress,
            number=number,
            generator=self.generator,
            reduce=summed,
        )
        weighted: dict[str, Tensor] = {}

        def settle(weights: Mapping[str, float], name: str, part: Tensor) -> Tensor:
            """Backward of one part of a term; what is left of it is its value."""
            loss = factor * weights[name] * part
            with without_autocast(part):
                if tapped is not None:
                    used = _add_squares(squares, name, loss, tapped, scaled)
                    tapped[:] = [output for output, is_of_part in zip(tapped, used, strict=True) if not is_of_part]
                scaled(loss).backward()  # type: ignore[no-untyped-call]
            return part.detach()

        with autocast:
            for regularizer in self.regularizers:
                own = chosen(regularizer.views, self.kinds, views)
                outcome = regularizer(step(views=own, settle=partial(settle, regularizer.weights)))
                for name, term in outcome.terms.items():
                    weighted[name] = factor * regularizer.weights[name] * term
                    self.means.add(f"raw/{name}", term.detach())
                    self.means.add(f"weighted/{name}", weighted[name].detach())
                for name, sign in outcome.signs.items():
                    self.means.add_known(f"sign/{name}", sign)
        if tapped is not None:
            log_gradient_norms(self.means, weighted, tapped, scaled, squares)
        loss = torch.stack(list(weighted.values())).sum()
        if loss.requires_grad:
            scaled(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _student(
        self, network: nn.Module, tapped: list[Tensor] | None, patch_voxels: int, x: Tensor, taps: Sequence[int]
    ) -> tuple[Tensor, list[Tensor]]:
        gradient = torch.is_grad_enabled()
        self.cost.count(patches(x, patch_voxels), gradient)
        logits, features = self.forward(network, x, tuple(taps))
        # Aliases: what a term does to one of them says nothing of the levels above, on which the level itself depends.
        outputs = [output.view_as(output) for output in (logits, *features)]
        if gradient and tapped is not None:
            tapped.extend(outputs)
        return outputs[0], outputs[1:]

    def _without_gradient(self, network: nn.Module | None, patch_voxels: int) -> Forward | None:
        if network is None:
            return None

        @torch.no_grad()
        def forward(x: Tensor, taps: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
            self.cost.count(patches(x, patch_voxels), gradient=False)
            return self.forward(network, x, tuple(taps))

        return forward


def patches(x: Tensor, patch_voxels: int) -> float:
    """How many patches the images [B, C, *spatial] amount to, which may be parts of patches."""
    return len(x) * x[0, 0].numel() / patch_voxels


def _add_squares(
    squares: dict[str, Tensor],
    name: str,
    loss: Tensor,
    tapped: Sequence[Tensor],
    scaled: Callable[[Tensor], Tensor],
) -> list[bool]:
    """Add the squared norm of a loss's gradient at the tapped outputs; returns which of them the loss reads."""
    scale = float(scaled(torch.ones((), device=loss.device)))
    gradients = torch.autograd.grad(scaled(loss), tapped, retain_graph=True, allow_unused=True)
    norms = [gradient.float().norm() / scale for gradient in gradients if gradient is not None]
    if norms:
        squares[name] = squares.get(name, torch.zeros_like(norms[0])) + torch.stack(norms).square().sum()
    return [gradient is not None for gradient in gradients]

"""One labelled batch of dense and sparse rows through two decoders, and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import Tensor, nn

from nnunetv2_semisup.networks.second_decoder import BothOutputs
from nnunetv2_semisup.regularizers.mixedkd import MixedKD
from nnunetv2_semisup.training.cost import Cost
from nnunetv2_semisup.training.partial_loss import PartialLoss
from nnunetv2_semisup.training.run_log import EpochMeans
from nnunetv2_semisup.training.unlabeled_pass import log_gradient_norms

BothCall = Callable[[nn.Module, nn.Module, Tensor, int, bool], BothOutputs]


@dataclass
class LabeledPass:
    """Supervised losses of student and teacher, and the student's weak terms on the same outputs.

    Attributes:
        regularizer: whose terms they are.
        loss: nnU-Net's, of dense rows.
        sparse_loss: of sparse rows.
        forward: `forward_both`, compiled or not.
        means: of the epoch.
        cost: of the training.
    """

    regularizer: MixedKD
    loss: nn.Module
    sparse_loss: PartialLoss
    forward: BothCall
    means: EpochMeans
    cost: Cost

    def backward(
        self,
        data: Tensor,
        target: Any,
        n_dense: int,
        student: nn.Module,
        teacher: nn.Module | None,
        *,
        factor: float,
        autocast: AbstractContextManager[Any],
        scaled: Callable[[Tensor], Tensor],
        log_gradients: bool,
    ) -> Tensor:
        """Add the gradients of the labelled batch. Returns the student's supervised loss, detached.

        Args:
            data: images [B, C, *spatial], dense rows first.
            target: nnU-Net's; a list of resolutions with deep supervision.
            n_dense: number of dense rows, at least 1.
            student: the network; unwrapped where there is a teacher.
            teacher: with the second decoder; None: there is none.
            factor: of the schedule, in [0, 1], on the weak terms.
            autocast: nnU-Net's, entered for the forward.
            scaled: nnU-Net's loss scaling; the identity without mixed precision.
            log_gradients: whether to measure the weak terms' gradients at the student's logits.
        """
        targets = target if isinstance(target, list) else [target]
        settings = self.regularizer.settings
        with autocast:
            outputs, taught, logits = self._outputs(data, n_dense, student, teacher, factor > 0)
            loss = supervised = self._supervised(outputs, targets, n_dense)
            if taught is not None:
                loss = loss + settings.teacher.weight * self._stock(taught, _rows(targets, slice(n_dense)))
            weighted = self._weak(outputs[0], logits, n_dense, factor) if factor > 0 else {}
        if log_gradients:
            log_gradient_norms(self.means, weighted, [outputs[0]], scaled)
        scaled(sum(weighted.values(), loss)).backward()  # type: ignore[no-untyped-call]
        return supervised.detach()

    def _outputs(
        self, data: Tensor, n_dense: int, student: nn.Module, teacher: nn.Module | None, weak: bool
    ) -> tuple[list[Tensor], list[Tensor] | None, Tensor | None]:
        """The student's outputs; the teacher's on dense rows; and its full-resolution logits on all rows it sees."""
        if teacher is None:
            outputs = student(data)
            return outputs if isinstance(outputs, list) else [outputs], None, None
        everywhere = weak and self.regularizer.teaches_everywhere
        both = self.forward(student, teacher, data, n_dense, everywhere)
        self.cost.count(n_dense, gradient=True)
        if both.beyond is None:
            return both.student, both.teacher, both.teacher[0]
        self.cost.count(len(both.beyond), gradient=False)
        return both.student, both.teacher, torch.cat([both.teacher[0], both.beyond])

    def _supervised(self, outputs: list[Tensor], targets: list[Tensor], n_dense: int) -> Tensor:
        """The student's loss: rows count alike, dense and sparse ones each in a loss of their own."""
        rows = len(outputs[0])
        if n_dense == rows:
            return self._stock(outputs, targets)
        dense, sparse = slice(n_dense), slice(n_dense, None)
        of_dense = self._stock(_rows(outputs, dense), _rows(targets, dense))
        of_sparse = self.sparse_loss(_rows(outputs, sparse), _rows(targets, sparse))
        weight = self.regularizer.settings.sparse.weight
        loss: Tensor = (n_dense * of_dense + weight * (rows - n_dense) * of_sparse) / rows
        return loss

    def _stock(self, outputs: list[Tensor], targets: list[Tensor]) -> Tensor:
        deep = isinstance(self.loss, DeepSupervisionWrapper)
        loss: Tensor = self.loss(outputs, targets) if deep else self.loss(outputs[0], targets[0])
        return loss

    def _weak(self, student: Tensor, teacher: Tensor | None, n_dense: int, factor: float) -> dict[str, Tensor]:
        outcome = self.regularizer.labeled(student, teacher, n_dense)
        weighted = {}
        for name, term in outcome.terms.items():
            weighted[name] = factor * self.regularizer.labeled_weights[name] * term
            self.means.add(f"raw/{name}", term.detach())
            self.means.add(f"weighted/{name}", weighted[name].detach())
        for name, sign in outcome.signs.items():
            self.means.add(f"sign/{name}", sign)
        return weighted


def _rows(resolutions: Sequence[Tensor], rows: slice) -> list[Tensor]:
    return [resolution[rows] for resolution in resolutions]

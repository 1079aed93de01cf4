"""Dense and sparse labelled batches through two decoders, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import Tensor, nn

from nnunetv2_semisup.networks.features import as_resolutions, unwrapped
from nnunetv2_semisup.networks.second_decoder import BothOutputs
from nnunetv2_semisup.regularizers.base import Outcome
from nnunetv2_semisup.regularizers.mixedkd import MixedKD
from nnunetv2_semisup.training.cost import Cost
from nnunetv2_semisup.training.partial_loss import PartialLoss
from nnunetv2_semisup.training.run_log import EpochMeans
from nnunetv2_semisup.training.unlabeled_pass import log_gradient_norms

BothCall = Callable[[nn.Module, nn.Module, Tensor, bool], BothOutputs]


@dataclass
class LabeledPass:
    """Supervised losses of student and teacher, and the student's weak terms on the same outputs.

    Dense and sparse patches go through the networks one after the other, so that the memory is that of one batch.

    Attributes:
        regularizer: whose terms they are.
        loss: nnU-Net's, of dense patches.
        sparse_loss: of sparse patches.
        forward: `forward_both`, compiled or not.
        means: of the epoch.
        cost: of the training.
        autocast: makes nnU-Net's, entered for the forward.
        scaled: nnU-Net's loss scaling; the identity without mixed precision.
    """

    regularizer: MixedKD
    loss: nn.Module
    sparse_loss: PartialLoss
    forward: BothCall
    means: EpochMeans
    cost: Cost
    autocast: Callable[[], AbstractContextManager[Any]]
    scaled: Callable[[Tensor], Tensor]

    def dense(
        self, data: Tensor, target: Any, student: nn.Module, teacher: nn.Module | None, factor: float, log: bool
    ) -> Tensor:
        """Add the gradients of a dense batch. Returns the student's supervised loss, detached.

        Args:
            data: images [B, C, *spatial].
            target: nnU-Net's; a list of resolutions with deep supervision.
            student: the network, compiled or not.
            teacher: with the second decoder; None: there is none.
            factor: of the schedule, in [0, 1], on the weak terms.
            log: whether to measure the weak terms' gradients at the student's logits.
        """
        targets = as_resolutions(target)
        with self.autocast():
            outputs, taught = self._outputs(data, student, teacher, teacher_learns=True)
            loss = supervised = self._stock(outputs, targets)
            if taught is not None:
                loss = loss + self.regularizer.settings.teacher.weight * self._stock(taught, targets)
            weighted = self._weighted(self.regularizer.dense, outputs, taught, factor)
        self._backward(loss, weighted, outputs[0], log)
        return supervised.detach()

    def sparse(
        self, data: Tensor, target: Any, student: nn.Module, teacher: nn.Module | None, factor: float, log: bool
    ) -> Tensor:
        """Add the gradients of a sparse batch. Returns the student's weighted supervised loss, detached.

        Args as those of `dense`.
        """
        self.cost.count(len(data), gradient=True)
        asked = teacher if factor > 0 and self.regularizer.teaches_everywhere else None
        with self.autocast():
            outputs, taught = self._outputs(data, student, asked, teacher_learns=False)
            loss: Tensor = self.regularizer.settings.sparse.weight * self.sparse_loss(outputs, as_resolutions(target))
            weighted = self._weighted(self.regularizer.sparse, outputs, taught, factor)
        self._backward(loss, weighted, outputs[0], log)
        return loss.detach()

    def _outputs(
        self, data: Tensor, student: nn.Module, teacher: nn.Module | None, teacher_learns: bool
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        """Of the student and of the teacher, full resolution first."""
        if teacher is None:
            return as_resolutions(student(data)), None
        self.cost.count(len(data), gradient=teacher_learns)
        both = self.forward(unwrapped(student), teacher, data, teacher_learns)
        return both.student, both.teacher

    def _stock(self, outputs: list[Tensor], targets: list[Tensor]) -> Tensor:
        deep = isinstance(self.loss, DeepSupervisionWrapper)
        loss: Tensor = self.loss(outputs, targets) if deep else self.loss(outputs[0], targets[0])
        return loss

    def _weighted(
        self,
        terms: Callable[[Tensor, Tensor | None], Outcome],
        outputs: list[Tensor],
        taught: list[Tensor] | None,
        factor: float,
    ) -> dict[str, Tensor]:
        """The weak terms at full resolution; none in the warm-up."""
        if factor == 0:
            return {}
        outcome = terms(outputs[0], None if taught is None else taught[0])
        weighted = {}
        for name, term in outcome.terms.items():
            weighted[name] = factor * self.regularizer.labeled_weights[name] * term
            self.means.add(f"raw/{name}", term.detach())
            self.means.add(f"weighted/{name}", weighted[name].detach())
        for name, sign in outcome.signs.items():
            self.means.add(f"sign/{name}", sign)
        return weighted

    def _backward(self, loss: Tensor, weighted: Mapping[str, Tensor], logits: Tensor, log: bool) -> None:
        if log:
            log_gradient_norms(self.means, weighted, [logits], self.scaled)
        self.scaled(sum(weighted.values(), loss)).backward()  # type: ignore[no-untyped-call]

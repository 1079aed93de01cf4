"""nnU-Net's loss of sparsely annotated patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import Tensor, nn

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.training.distributed import is_distributed


class PartialLoss:
    """nnU-Net's loss with its ignore label, without the rows in which nothing is annotated.

    nnU-Net counts such a row as a perfect Dice, without gradient, which dilutes that of the other rows. Few annotated
    voxels vanish at coarse resolutions, where deep supervision samples one voxel of many: the rows are chosen anew at
    each resolution. Of several processes a Dice over the whole batch keeps all rows: it is not diluted, and nnU-Net
    gathers the rows of all processes, which must have as many.
    """

    def __init__(self, loss: nn.Module, known: Callable[[Tensor], Tensor], with_dice: bool) -> None:
        """Describe the loss.

        Args:
            loss: what nnU-Net's `_build_loss` returns; it may be changed, so give one of its own.
            known: of a target [B, ...], where it is annotated, bool [B, 1, ...].
            with_dice: False: cross-entropy alone.

        Raises SemiSupervisedError where the Dice shall be left out of a loss of the user's that has no weight for it.
        """
        self._loss: Any = loss
        self._weights: Sequence[float] = (1.0,)
        if isinstance(loss, DeepSupervisionWrapper):
            self._loss, self._weights = loss.loss, loss.weight_factors
        self._known = known
        self._over_batch = any(getattr(module, "batch_dice", False) for module in self._loss.modules())
        if not with_dice:
            if not hasattr(self._loss, "weight_dice"):
                raise SemiSupervisedError(
                    f"the sparse cases have no annotated background, and {type(self._loss).__name__} cannot leave out "
                    "its Dice; annotate some background as well"
                )
            self._loss.weight_dice = 0

    def __call__(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """The loss of logits [B, C, ...] and nnU-Net's targets [B, ...], full resolution first."""
        terms: list[Tensor] = []
        for weight, output, target in zip(self._weights, outputs, targets, strict=True):
            if weight == 0:
                continue
            annotated = self._known(target).flatten(1).any(dim=1)
            if self._over_batch and is_distributed():
                terms.append(weight * self._loss(output, target))
            elif annotated.any():
                terms.append(weight * self._loss(output[annotated], target[annotated]))
            else:
                terms.append(output[:0].float().sum())
        return torch.stack(terms).sum()

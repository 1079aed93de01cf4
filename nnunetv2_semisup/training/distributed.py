"""Several processes: what they share and when. Everything is a no-op in a single process.

Stock's DistributedDataParallel stays around the network, but no training forward goes through it: several forwards
and backwards a step make its reducer abort or the ranks diverge. Gradients are averaged here, once a step.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce


def is_distributed() -> bool:
    """Whether there is more than one process."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes, with gradient.

    Its backward sums the gradients as well, so that after `average_gradients` N processes equal one that sees all
    their samples.
    """
    return all_reduce(tensor) if is_distributed() else tensor  # type: ignore[no-untyped-call]


def broadcast(module: nn.Module) -> None:
    """Give every process rank 0's parameters and buffers."""
    if is_distributed():
        for tensor in module.state_dict().values():
            distributed.broadcast(tensor, src=0)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in one flattened all-reduce."""
    if not is_distributed():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, mean in zip(gradients, torch.split(flat, sizes), strict=True):
        gradient.copy_(mean.view_as(gradient))

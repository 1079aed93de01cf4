"""A second network beside nnU-Net's: built, supervised and optimised as the first."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_semisup.training.distributed import broadcast


def build_peer(trainer: Any) -> nn.Module:
    """A network of the trainer's plans, with initial weights of its own, in the trainer's optimiser and its schedule.

    It becomes a further group of parameters of that optimiser, after the network's. Call it when the trainer's network
    and optimiser exist, inside the random streams that shall draw its weights.
    """
    peer = new_network(trainer)
    if isinstance(trainer.network, DistributedDataParallel):
        peer = nn.SyncBatchNorm.convert_sync_batchnorm(peer)  # type: ignore[no-untyped-call]
    broadcast(peer)
    trainer.optimizer.add_param_group({"params": list(peer.parameters())})
    return peer


def new_network(trainer: Any) -> nn.Module:
    """A network of the trainer's plans on its device, with initial weights drawn from the global streams."""
    network: nn.Module = trainer.build_network_architecture(
        trainer.plans_manager,
        trainer.configuration_manager,
        trainer.num_input_channels,
        trainer.label_manager.num_segmentation_heads,
        trainer.enable_deep_supervision,
    )
    return network.to(trainer.device)

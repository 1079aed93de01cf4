"""A second network beside nnU-Net's, or a second decoder on its encoder: built and optimised as the first."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_semisup.networks.second_decoder import on_one_encoder, own_parameters
from nnunetv2_semisup.training.distributed import broadcast


def build_peer(trainer: Any) -> nn.Module:
    """A network of the trainer's plans, with initial weights of its own, in the trainer's optimiser and its schedule.

    It becomes a further group of parameters of that optimiser, after the network's. Call it when the trainer's network
    and optimiser exist, inside the random streams that shall draw its weights.
    """
    peer = _shared(trainer, new_network(trainer))
    trainer.optimizer.add_param_group({"params": list(peer.parameters())})
    return peer


def build_second_decoder(trainer: Any) -> nn.Module:
    """A network of the trainer's plans that has the encoder of the trainer's network, and a decoder of its own.

    Its decoder becomes a further group of parameters of the trainer's optimiser; the encoder is in the first one. Call
    it as `build_peer`.
    """
    network = on_one_encoder(trainer.network, _shared(trainer, new_network(trainer)))
    trainer.optimizer.add_param_group({"params": own_parameters(network)})
    return network


def _shared(trainer: Any, network: nn.Module) -> nn.Module:
    """With the same weights in every process, and as nnU-Net prepares its own network for several."""
    if isinstance(trainer.network, DistributedDataParallel):
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    broadcast(network)
    return network


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

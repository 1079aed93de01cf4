"""Whose weights a training began with: its own fresh ones, or those of another training (-pretrained_weights)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.networks.features import unwrapped
from nnunetv2_semisup.training.checkpoint import SECTION
from nnunetv2_semisup.training.checkpoint_reading import read_checkpoint
from nnunetv2_semisup.training.weight_match import NOT_TRANSFERRED

OPTION = "-pretrained_weights"
"""Of nnUNetv2_train, which hands the weights to the network and says nothing to the trainer."""


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of the parameters that nnU-Net transfers: all but the segmentation layers'."""
    return _hash(_transferred(network))


def other_weights(network: nn.Module, fresh: str, arguments: Sequence[str]) -> dict[str, Any] | None:
    """What is kept of the weights that have taken the place of the fresh ones; None where none have.

    Args:
        network: before the first step, maybe wrapped.
        fresh: its fingerprint when it was initialised.
        arguments: of the command line, which name the file. It is believed where it holds these weights.

    Returns:
        "weights", their fingerprint; "file", where they come from, or None where that is not known; "origin", of a
        checkpoint of ours: its "trainer", "dataset", "cases", and "initial_weights", those that it began with. Else
        None: which cases the weights have seen is not recorded.
    """
    transferred = _transferred(network)
    found: dict[str, Any] = {"weights": _hash(transferred), "file": None, "origin": None}
    if found["weights"] == fresh:
        return None
    file = _named(arguments)
    try:
        checkpoint = {} if file is None else read_checkpoint(file, keys=("network_weights",))
    except SemiSupervisedError:
        return found
    offered = checkpoint.get("network_weights", {})
    if not all(key in offered for key in transferred):
        return found
    if _hash({key: offered[key] for key in transferred}) != found["weights"]:
        return found
    return found | {"file": str(file), "origin": _origin(checkpoint)}


def _origin(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    if SECTION not in checkpoint:
        return None
    ours = checkpoint[SECTION]
    return {
        "trainer": checkpoint["trainer_name"],
        "dataset": checkpoint["init_args"]["plans"]["dataset_name"],
        "cases": ours["cases"],
        "initial_weights": ours.get("initial_weights"),
    }


def _transferred(network: nn.Module) -> dict[str, Tensor]:
    parameters = unwrapped(network).named_parameters()
    return {name: parameter.detach() for name, parameter in parameters if NOT_TRANSFERRED not in name}


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _named(arguments: Sequence[str]) -> Path | None:
    for argument, following in pairwise([*arguments, ""]):
        option, _, value = argument.partition("=")
        if option == OPTION:
            return Path(value or following)
    return None

"""Whether stock nnU-Net's -pretrained_weights would take a file for a plan's network, and in words why not."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nnunetv2_semisup.data.folders import dataset_option, resolve_configuration
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.networks.from_plans import network_from_plans
from nnunetv2_semisup.networks.signature import CHANNELS, CLASS, Shapes, in_words, signature
from nnunetv2_semisup.training.checkpoint_reading import read_checkpoint

NOT_TRANSFERRED = ".seg_layers."
"""What nnU-Net leaves out: the layers that depend on the labels."""
WRAPPERS = {"module.": "DistributedDataParallel", "_orig_mod.": "torch.compile"}
"""What a wrapper puts before every key; nnU-Net's own checkpoints are free of it."""
_MOST_DIFFERENCES = 3


@dataclass(frozen=True)
class Target:
    """The training that weights are meant for. `plans_name` is the name of the plans' file, as -p takes it."""

    plans: dict[str, Any]
    plans_name: str
    configuration: str
    dataset_json: dict[str, Any]

    @property
    def dataset(self) -> str:
        """What to type after -d."""
        return dataset_option(str(self.plans["dataset_name"]))

    def network_shapes(self) -> Shapes:
        """Of the network that nnU-Net builds. Raises SemiSupervisedError where it has none, or its class is missing."""
        try:
            network = network_from_plans(self.plans, self.configuration, self.dataset_json)
        except ImportError:
            name = resolve_configuration(self.plans, self.configuration).network_arch_class_name
            raise SemiSupervisedError(
                f"the network class {name} of the plans {self.plans_name} cannot be imported; install the package that "
                "it comes from"
            ) from None
        return {key: tuple(value.shape) for key, value in network.state_dict().items()}


@dataclass(frozen=True)
class Verdict:
    """One line on a file of weights, and what to type: to use it, or to mend what keeps it from being used."""

    accepted: bool
    text: str
    advice: str


def judge_weights(file: Path, target: Target) -> Verdict:
    """Compare a file with the network of a plan, as nnU-Net's `load_pretrained_weights` compares them.

    Raises SemiSupervisedError for a file that is missing, truncated, no checkpoint of nnU-Net or not safe to read, and
    for plans that have no such network.
    """
    needed = {key: shape for key, shape in target.network_shapes().items() if NOT_TRANSFERRED not in key}
    checkpoint = read_checkpoint(file, keys=("network_weights",))
    weights = checkpoint["network_weights"]
    tensors = weights.items() if isinstance(weights, Mapping) else ()
    offered = {key: tuple(value.shape) for key, value in tensors if isinstance(value, Tensor)}
    if not offered:
        raise SemiSupervisedError(
            f"{file} is no nnU-Net checkpoint: its network_weights hold no tensor; name the checkpoint_final.pth of a "
            "training"
        )
    network = f"the network of -d {target.dataset} -c {target.configuration} -p {target.plans_name}"
    why = why_refused(needed, offered)
    if why is None:
        return Verdict(
            True, f"{file} fits {network}", _train(target.dataset, target.configuration, target.plans_name, file)
        )
    return Verdict(False, f"{file} does not fit {network}: {why}", _advice(needed, offered, checkpoint, target, file))


def why_refused(needed: Shapes, offered: Shapes) -> str | None:
    """What differs, in words; None where every needed tensor is offered in the same shape."""
    wrong = [key for key, shape in needed.items() if offered.get(key) != shape]
    if not wrong:
        return None
    if prefix := _wrapper(offered):
        return f"its keys begin with {prefix}, which {WRAPPERS[prefix]} has put there"
    theirs, ours = signature(offered), signature(needed)
    differing = [name for name in ours if theirs.get(name) != ours[name]]
    if CLASS in differing:
        differing = [CLASS]
    if differing:
        return "; ".join(
            f"{name} {in_words(theirs[name])} in the file, {in_words(ours[name])} here"
            for name in differing[:_MOST_DIFFERENCES]
        )
    there = f"of shape {list(offered[wrong[0]])}" if wrong[0] in offered else "missing"
    return (
        f"{len(wrong)} of {len(needed)} tensors are missing or of another shape, first {wrong[0]}: {there} in the "
        f"file, of shape {list(needed[wrong[0]])} here"
    )


def _wrapper(shapes: Shapes) -> str | None:
    return next((prefix for prefix in WRAPPERS if all(key.startswith(prefix) for key in shapes)), None)


def _advice(needed: Shapes, offered: Shapes, checkpoint: Mapping[str, Any], target: Target, file: Path) -> str:
    """What to type where the file does not fit: another file, or the plans that its network was made with."""
    if prefix := _wrapper(offered):
        return f"save the file again, with {prefix} removed from the keys of network_weights"
    ours, theirs = signature(needed), signature(offered)
    if ours[CLASS] == theirs[CLASS] and ours.get(CHANNELS) != theirs.get(CHANNELS):
        return f"pre-train on images of {ours[CHANNELS]} channel(s), or train without -pretrained_weights"
    origin = _origin(checkpoint)
    if origin is None:
        return "name with -p plans that have the file's network, or train without -pretrained_weights"
    dataset, plans_name, configuration = origin
    if dataset != target.plans["dataset_name"]:
        moved = f"{plans_name}_of_{dataset_option(dataset)}"
        return (
            f"nnUNetv2_move_plans_between_datasets -s {dataset_option(dataset)} -t {target.dataset} -sp {plans_name} "
            f"-tp {moved} && nnUNetv2_preprocess -d {target.dataset} -c {configuration} -plans_name {moved} && "
            + _train(target.dataset, configuration, moved, file)
        )
    if (plans_name, configuration) != (target.plans_name, target.configuration):
        return _train(target.dataset, configuration, plans_name, file)
    return f"pre-train again: the plans {plans_name} have changed since"


def _train(dataset: str, configuration: str, plans_name: str, file: Path) -> str:
    command = f"nnUNetv2_train {dataset} {configuration} FOLD -p {plans_name}"
    return f"{command} -pretrained_weights {shlex.quote(str(file))}"


def _origin(checkpoint: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Dataset, plans and configuration that a checkpoint says it was trained with."""
    match checkpoint.get("init_args"):
        case {"plans": {"dataset_name": str(dataset), "plans_name": str(plans)}, "configuration": str(configuration)}:
            return dataset, plans, configuration
    return None

"""A trained model with cluster heads, from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nnunetv2_semisup.data.folders import read_model_file
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.methods import method_of
from nnunetv2_semisup.networks.features import Levels
from nnunetv2_semisup.networks.from_plans import network_from_plans
from nnunetv2_semisup.networks.heads import ClusterHead
from nnunetv2_semisup.training.checkpoint import SECTION
from nnunetv2_semisup.training.checkpoint_reading import read_checkpoint
from nnunetv2_semisup.training.fold_files import FINAL, LATEST

TRAINERS = ("nnUNetTrainerBIMPretrain", "nnUNetTrainerBIM")
"""Those whose first regularizer has cluster heads on one tap."""
CHECKPOINTS = (FINAL, LATEST)
"""Of a finished training, and of one that is running."""
_HEADS = "0.heads."
"""Where the heads are among the modules of a checkpoint: of the first regularizer."""


@dataclass(frozen=True)
class ClusterModel:
    """Everything that predicting clusters needs of a model.

    Attributes:
        checkpoint: the file that the weights come from.
        epoch: how many epochs it was trained for.
        trainer: its class name.
        plans: of the model folder.
        configuration: its name in the plans.
        dataset_json: of the model folder.
        network: on the CPU.
        heads: one ClusterHead a sub-head.
        tap: the level of the network that they read.
        clusters: how many each of them tells apart.
    """

    checkpoint: Path
    epoch: int
    trainer: str
    plans: dict[str, Any]
    configuration: str
    dataset_json: dict[str, Any]
    network: nn.Module
    heads: nn.ModuleList
    tap: int
    clusters: int

    @property
    def channels(self) -> int:
        """Image channels that the network takes."""
        return len(self.dataset_json.get("channel_names") or self.dataset_json["modality"])

    @property
    def file_ending(self) -> str:
        """Of images and of maps."""
        return str(self.dataset_json["file_ending"])


def load_cluster_model(model_folder: Path, fold: str) -> ClusterModel:
    """Read a fold of a model, the last checkpoint of its training or, while that runs, its latest.

    Raises SemiSupervisedError where the folder is none of a model, lacks the fold or a checkpoint, where the model has
    no cluster heads, and for a damaged checkpoint.
    """
    plans, dataset_json = (read_model_file(model_folder, name) for name in ("plans.json", "dataset.json"))
    file = _checkpoint(model_folder, fold)
    checkpoint = read_checkpoint(file)
    section = checkpoint.get(SECTION)
    if section is None or section["method"] not in map(method_of, TRAINERS):
        raise SemiSupervisedError(
            f"{model_folder} was trained by {checkpoint['trainer_name']}, which has no cluster heads; give -m a model "
            f"of {' or '.join(TRAINERS)}"
        )
    configuration = str(checkpoint["init_args"]["configuration"])
    settings = section["settings"]["clusters"]
    try:
        network = network_from_plans(plans, configuration, dataset_json)
        network.load_state_dict(checkpoint["network_weights"])
        heads = _heads(network, settings, section["modules"]["heads"])
    except (RuntimeError, KeyError) as error:
        raise SemiSupervisedError(
            f"{file} does not fit {model_folder / 'plans.json'} ({' '.join(str(error).split())[:200]}); restore the "
            "folder as the training left it"
        ) from error
    return ClusterModel(
        checkpoint=file,
        epoch=int(checkpoint["current_epoch"]),
        trainer=str(checkpoint["trainer_name"]),
        plans=plans,
        configuration=configuration,
        dataset_json=dataset_json,
        network=network,
        heads=heads,
        tap=settings["tap"],
        clusters=settings["count"],
    )


def _heads(network: nn.Module, settings: dict[str, Any], weights: dict[str, Any]) -> nn.ModuleList:
    levels = Levels.of(network)
    channels, dim = levels.channels[settings["tap"]], len(levels.strides[0])
    heads = nn.ModuleList(
        ClusterHead(channels, settings["count"], settings["head"], dim) for _ in range(settings["sub_heads"])
    )
    heads.load_state_dict({key.removeprefix(_HEADS): value for key, value in weights.items() if key.startswith(_HEADS)})
    return heads


def _checkpoint(model_folder: Path, fold: str) -> Path:
    folder = model_folder / f"fold_{fold}"
    if not folder.is_dir():
        present = sorted(path.name.removeprefix("fold_") for path in model_folder.glob("fold_*"))
        raise SemiSupervisedError(f"{model_folder} has no fold {fold}; give -f one of: {', '.join(present) or 'none'}")
    file = next((folder / name for name in CHECKPOINTS if (folder / name).is_file()), None)
    if file is None:
        raise SemiSupervisedError(f"{folder} holds no checkpoint ({' or '.join(CHECKPOINTS)}); wait for the training")
    return file

"""Checks before a training touches the disk: nnU-Net creates the fold's folder in its constructor."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from packaging.version import Version

from nnunetv2_semisup.data.structures import structures_of
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.networks.features import refuse_unsupported_network
from nnunetv2_semisup.regularizers.base import Outline
from nnunetv2_semisup.training.fold_files import FINAL

OLDEST_NNUNET = "2.8.1"


def check_environment(plans: Mapping[str, Any]) -> None:
    """Refuse an nnU-Net without external trainers, unset variables and a results folder that cannot be written.

    Raises SemiSupervisedError.
    """
    if Version(version("nnunetv2")) < Version(OLDEST_NNUNET):
        raise SemiSupervisedError(
            f"nnunetv2 {version('nnunetv2')} is too old; type: pip install 'nnunetv2>={OLDEST_NNUNET}'"
        )
    for variable in (nnUNet_preprocessed, nnUNet_results):
        if not variable.is_set():
            raise SemiSupervisedError(
                f"{variable.env_var_name} is not set; type: export {variable.env_var_name}=FOLDER"
            )
    folder = Path(str(nnUNet_results)) / str(plans["dataset_name"])
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise SemiSupervisedError(
            f"cannot write to {existing} ({error.strerror}); set nnUNet_results to a folder that you may write to"
        ) from None


def check_support(plans: Mapping[str, Any], configuration: str, device: torch.device) -> None:
    """Refuse what unlabelled terms cannot work on: the cascade's second stage, mps, other networks.

    Raises NotImplementedError.
    """
    if device.type == "mps":
        raise NotImplementedError("training with unlabelled images on mps is not supported; use -device cuda or cpu")
    manager = PlansManager(dict(plans)).get_configuration(configuration)
    if manager.previous_stage_name is not None:
        raise NotImplementedError(
            f"{configuration} is the second stage of a cascade and takes the first stage's segmentation as input, "
            "which unlabelled cases lack; train 3d_lowres or 3d_fullres"
        )
    refuse_unsupported_network(manager.network_arch_class_name)


def outline_of(
    plans: Mapping[str, Any],
    configuration: str,
    dataset_json: Mapping[str, Any],
    device: torch.device | None = None,
) -> Outline:
    """What regularizers check their settings against; without a device its memory is taken to suffice."""
    manager = PlansManager(dict(plans)).get_configuration(configuration)
    labels = PlansManager(dict(plans)).get_label_manager(dict(dataset_json))
    voxels, size = [], np.array(manager.patch_size)
    strides, total = [], np.ones_like(size)
    for stride in manager.network_arch_init_kwargs["strides"]:
        size, total = -(-size // np.array(stride)), total * np.array(stride)
        voxels.append(int(size.prod()))
        strides.append(tuple(map(int, total)))
    return Outline(
        tuple(reversed(voxels)),
        int(manager.batch_size),
        len(structures_of(labels)),
        tuple(map(int, manager.patch_size)),
        tuple(reversed(strides)),
        labels.has_regions,
        _memory_of(device),
    )


def _memory_of(device: torch.device | None) -> int:
    """Bytes in all; the largest number where nothing tells."""
    if device is not None and device.type == "cuda" and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device is None or sys.platform == "win32":
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True)
class Place:
    """Where a training reads and writes: known before nnU-Net's constructor runs."""

    dataset_folder: Path
    fold_folder: Path

    @classmethod
    def of(cls, trainer_name: str, plans: Mapping[str, Any], configuration: str, fold: int | str) -> Place:
        """From the environment, as nnU-Net composes it."""
        run = f"{trainer_name}__{plans['plans_name']}__{configuration}"
        return cls(
            Path(str(nnUNet_preprocessed)) / plans["dataset_name"],
            Path(str(nnUNet_results)) / plans["dataset_name"] / run / f"fold_{fold}",
        )

    @property
    def is_finished(self) -> bool:
        """Whether a training has ended here. Then `--val` may be what is asked for, which needs no unlabelled case."""
        return (self.fold_folder / FINAL).exists()

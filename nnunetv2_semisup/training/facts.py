"""What regularizers may know of a training, read off nnU-Net's trainer."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from nnunetv2_semisup.data.pieces import structures_in_one_piece
from nnunetv2_semisup.data.structures import structures_of
from nnunetv2_semisup.networks.features import Levels
from nnunetv2_semisup.regularizers.base import Facts

MOST_CASES = 64
"""Labelled cases that are looked at for structures in one piece: enough to know, few enough to read."""


def facts_of(trainer: Any) -> Facts:
    """The facts of a trainer whose network exists."""
    _, in_plane, _, mirror_axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    patch_size = tuple(int(size) for size in trainer.configuration_manager.patch_size)
    labels = trainer.label_manager
    return Facts(
        levels=Levels.of(trainer.network),
        patch_size=patch_size,
        spacing=tuple(trainer.configuration_manager.spacing[-len(patch_size) :]),
        batch_size=int(trainer.batch_size),
        n_structures=len(structures_of(labels)),
        has_regions=labels.has_regions,
        mirror_axes=tuple(mirror_axes or ()),
        in_plane=bool(in_plane),
        ignore_label=labels.ignore_label,
        regions=tuple(map(_members, labels.foreground_regions)) if labels.has_regions else (),
        one_piece=partial(_structures_in_one_piece, trainer),
        num_epochs=int(trainer.num_epochs),
    )


def _structures_in_one_piece(trainer: Any) -> tuple[int, ...]:
    """By `structures_in_one_piece`, of the cases without a voxel of the ignore label: other maps are incomplete."""
    labels = trainer.label_manager
    labeled, _ = trainer.do_split()
    cases = sorted(labeled)[:: -(-len(labeled) // MOST_CASES)]
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, list(cases))
    # Label maps of large cases take a second each.
    bar = tqdm(cases, desc="structures in one piece", disable=None, leave=False)
    maps = (np.asarray(dataset.load_case(case)[1])[0] for case in bar)
    ignore = labels.ignore_label
    complete = maps if ignore is None else (case_labels for case_labels in maps if ignore not in case_labels)
    structures = map(_members, structures_of(labels))
    return structures_in_one_piece(complete, list(structures), trainer.configuration_manager.patch_size)


def _members(structure: Any) -> tuple[int, ...]:
    """Labels of a region, or a single label, whose type may be NumPy's."""
    return tuple(map(int, structure)) if isinstance(structure, tuple | list) else (int(structure),)

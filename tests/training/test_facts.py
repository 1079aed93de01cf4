"""What a training tells its regularizers of the labelled cases."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_semisup.configuration.sources import merged
from nnunetv2_semisup.training.checkpoint import section_of
from tests.regularizers.toy_step import facts_of, network_of
from tests.workspace import TINY, Workspace, make_workspace


def relabelled(workspace: Workspace, cases: list[str], where: tuple[slice, ...], label: int) -> None:
    """Write a label into the preprocessed label maps of these cases."""
    for case in cases:
        file = workspace.dataset_folder / "nnUNetPlans_3d_fullres" / f"{case}_seg.b2nd"
        labels = blosc2.open(str(file), mode="r")[:]
        labels[where] = label
        file.unlink()
        blosc2.asarray(np.ascontiguousarray(labels), urlpath=str(file))


def spoiled(workspace: Workspace, cases: list[str]) -> None:
    """Scatter label 1 over these cases, so that it is no longer in one piece."""
    relabelled(workspace, cases, (slice(None), *[slice(None, None, 4)] * 3), 1)


def one_piece(workspace: Workspace, plans_name: str) -> tuple[list[int], dict[str, Any]]:
    """As the initialized trainer has resolved it, and as its checkpoint has it."""
    settings = merged(TINY, {"data": {"split": "few"}})
    with workspace.active():
        trainer = workspace.trainer("nnUNetTrainerFixMatch", settings, plans_name=plans_name)
        trainer.initialize()
        return trainer.settings.pseudo_label.one_piece, section_of(trainer)["settings"]["pseudo_label"]


def test_structures_in_one_piece_are_those_of_the_labelled_cases_alone(tmp_path):
    workspace = make_workspace(tmp_path)
    labeled = [f"labeled_00{i}" for i in range(3)]
    split = {"0": {"labeled": labeled, "unlabeled": ["labeled_003"], "val": ["labeled_004"]}}
    (workspace.dataset_folder / "splits_few.json").write_text(json.dumps(split))
    before, stored = one_piece(workspace, "before")
    assert 1 in before
    assert stored["one_piece"] == before
    spoiled(workspace, ["labeled_003", "labeled_004"])
    assert one_piece(workspace, "others")[0] == before
    spoiled(workspace, labeled)
    assert 1 not in one_piece(workspace, "labelled")[0]


def test_incomplete_maps_say_nothing_of_pieces(tmp_path):
    """What an ignore label cuts in pieces is still one where the map is complete."""
    workspace = make_workspace(tmp_path)
    description = json.loads((workspace.dataset_folder / "dataset.json").read_text())
    description["labels"]["ignore"] = 5
    (workspace.dataset_folder / "dataset.json").write_text(json.dumps(description))
    labeled = [f"labeled_00{i}" for i in range(4)]
    split = {"0": {"labeled": labeled, "unlabeled": [], "val": ["labeled_004"]}}
    (workspace.dataset_folder / "splits_few.json").write_text(json.dumps(split))
    sparse = (slice(None), slice(None), slice(None, None, 3))
    relabelled(workspace, labeled[3:], sparse, 5)
    assert 1 in one_piece(workspace, "three complete")[0]
    relabelled(workspace, labeled[2:], sparse, 5)
    assert one_piece(workspace, "two complete")[0] == []


def test_regions_become_the_classes_that_nnunet_paints():
    labels = LabelManager(
        {"background": 0, "organs": [1, 2, 3, 4], "tubes": [2, 3], "lesion": 4, "ignore": 5}, [1, 2, 4]
    )
    network = network_of()
    regions = tuple(tuple(region) for region in [(1, 2, 3, 4), (2, 3), (4,)])
    facts = replace(facts_of(network, has_regions=True, ignore_label=5), regions=regions)
    logits = torch.randn(2, 3, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    painted = torch.stack([torch.as_tensor(labels.convert_logits_to_segmentation(sample)) for sample in logits])[
        :, None
    ]
    names = torch.tensor([0, *labels.regions_class_order])
    classes = facts.answered_classes(logits)
    assert torch.equal(names[classes], painted.long())
    # A stored map of these predictions, and a target with the ignore label in a channel of its own.
    overlapping = logits.clone()
    overlapping[:, 1:] = torch.where(overlapping[:, :1] > 0, overlapping[:, 1:], -1.0)
    painted = names[facts.answered_classes(overlapping)]
    assert torch.equal(facts.pseudo_classes(painted), facts.answered_classes(overlapping))
    ignored = torch.rand(2, 1, 6, 6, 6, generator=torch.Generator().manual_seed(1)) > 0.5
    target = torch.cat([overlapping > 0, ignored], dim=1).to(torch.int16)
    assert torch.equal(facts.classes(target), torch.where(ignored, -1, facts.answered_classes(overlapping)))
    assert torch.equal(facts.pseudo_classes(torch.where(ignored, -1, painted)), facts.classes(target))


@pytest.mark.parametrize("weights", [{"cross_entropy": 0.0, "dice": 0.0}])
def test_labels_are_not_read_where_no_pseudo_label_counts(in_toy, monkeypatch, weights):
    monkeypatch.setattr("nnunetv2_semisup.training.facts.structures_in_one_piece", lambda *_: pytest.fail("read"))
    trainer = in_toy.trainer("nnUNetTrainerFixMatch", merged(TINY, {"pseudo_label": weights}), plans_name="unweighted")
    trainer.initialize()
    assert trainer.settings.pseudo_label.one_piece == []

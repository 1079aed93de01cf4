"""A training without labels: which images it sees, what it leaves behind, and who starts from it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_semisup.configuration.sources import merged
from nnunetv2_semisup.data.manifest import read_manifest
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.training.schedules import warmup_cosine
from nnunetv2_semisup.training.trainer import HEAD_LEARNING_RATE
from tests.workspace import TINY

NAME = "nnUNetTrainerBIMPretrain"
SMALL = merged(TINY, {"clusters": {"count": 6, "sub_heads": 1}})


@pytest.fixture(scope="module")
def finished(toy):
    with toy.active():
        yield run_once(toy)


@pytest.fixture
def pretrained(finished, in_toy):
    return finished


def run_once(toy):
    trainer = toy.trainer(NAME, SMALL, plans_name="pretrained_once")
    segmentation_before: list[torch.Tensor] = []
    start = trainer.on_train_start

    def remember() -> None:
        start()
        segmentation_before.extend(p.clone() for p in trainer.network.decoder.seg_layers.parameters())

    trainer.on_train_start = remember
    trainer.run_training()
    return toy, trainer, segmentation_before


def test_every_image_but_the_validation_cases(pretrained):
    workspace, trainer, _ = pretrained
    _, val = nnUNetTrainer.do_split(trainer)
    manifest = read_manifest(workspace.dataset_folder, "nnUNetPlans_3d_fullres")
    images = {*manifest.done("unlabelled"), *manifest.done("training")}
    assert set(trainer.cases.unlabeled) == images - set(val)
    assert set(val) <= images
    transductive = merged(SMALL, {"data": {"exclude_val": False}})
    assert set(workspace.trainer(NAME, transductive, plans_name="seen").cases.unlabeled) == images
    log = Path(trainer.log_file).read_text()
    assert "stay unseen (data.exclude_val)" in log


def test_what_it_leaves_behind(pretrained, monkeypatch):
    _, trainer, segmentation_before = pretrained
    folder = Path(trainer.output_folder)
    assert (folder / "checkpoint_final.pth").exists()
    assert not (folder / "checkpoint_best.pth").exists()
    assert not (folder / "validation").exists()
    log = trainer.logger.get_value("mean_fg_dice", None)
    assert len(log) == 3
    assert all(value != value for value in log)
    assert trainer.save_every == 1
    for before, after in zip(segmentation_before, trainer.network.decoder.seg_layers.parameters(), strict=True):
        assert torch.equal(before, after)
    section = torch.load(folder / "checkpoint_final.pth", weights_only=False)["semisup"]
    assert section["settings"]["data"]["exclude_val"] is True
    assert section["cases"]["labeled"] == []
    monkeypatch.setattr(trainer, "output_folder", "/a folder")
    trainer.perform_actual_validation()
    (line,) = Path(trainer.log_file).read_text().splitlines()[-1:]
    weights = "-pretrained_weights '/a folder/checkpoint_final.pth'"
    assert f"nnUNetv2_train 901 3d_fullres 0 -p {trainer.plans_manager.plans_name} {weights}" in line


def test_stock_starts_from_it(pretrained):
    workspace, trainer, _ = pretrained
    stock = workspace.trainer(nnUNetTrainer, plans_name="stock_from_pretrained")
    stock.initialize()
    load_pretrained_weights(stock.network, f"{trainer.output_folder}/checkpoint_final.pth")
    taken = stock.network.state_dict()
    for key, value in trainer.network.state_dict().items():
        assert ".seg_layers." in key or torch.equal(taken[key], value)


def test_no_label_is_opened(in_toy, monkeypatch):
    """The folder with labels is out of reach of its loader; nnU-Net's own datasets are never built."""
    monkeypatch.setattr(nnUNetTrainer, "get_tr_and_val_datasets", lambda self: pytest.fail("labels were opened"))
    trainer = in_toy.trainer(NAME, SMALL, plans_name="no_labels")
    trainer.run_training()
    assert trainer.current_epoch == 3


def test_fewer_images_than_a_batch_are_refused(in_toy):
    with pytest.raises(SemiSupervisedError, match=r"a batch has 50 cases, and there are \d+ images; "):
        in_toy.trainer(NAME, merged(SMALL, {"data": {"batch_size": 50}}), plans_name="too_few")


def test_a_configuration_may_inherit_its_batch_size(in_toy):
    plans = in_toy.plans()
    plans["configurations"]["3d_fullres"]["batch_size"] = 50
    plans["configurations"]["3d_child"] = {"inherits_from": "3d_fullres"}
    with pytest.raises(SemiSupervisedError, match="a batch has 50 cases"):
        in_toy.trainer(NAME, SMALL, plans_name="inherits", configuration="3d_child", plans=plans)


def test_the_images_of_a_named_split(in_toy):
    cases = [f"labeled_00{i}" for i in range(5)]
    split = {"0": {"labeled": cases[:1], "unlabeled": cases[1:3], "val": cases[3:]}}
    (in_toy.dataset_folder / "splits_pretraining.json").write_text(json.dumps(split))
    trainer = in_toy.trainer(NAME, merged(SMALL, {"data": {"split": "pretraining"}}), plans_name="split")
    assert not set(cases[3:]) & set(trainer.cases.unlabeled)
    assert set(cases[:3]) <= set(trainer.cases.unlabeled)


def test_network_and_heads_follow_one_schedule(pretrained):
    _, trainer, _ = pretrained
    factor = warmup_cosine(2, 3, trainer.settings.optimizer.warmup)
    assert 0 < factor < 1
    for optimizer, rate in ((trainer.optimizer, trainer.initial_lr), (trainer.head_optimizer, HEAD_LEARNING_RATE)):
        assert {group["lr"] for group in optimizer.param_groups} == {rate * factor}


@pytest.mark.fast
def test_warmup_and_cosine():
    rates = [warmup_cosine(epoch, 50, 0.2) for epoch in range(50)]
    assert rates[:10] == pytest.approx([(epoch + 1) / 11 for epoch in range(10)])
    assert rates[10] == 1
    assert all(a > b > 0 for a, b in pairwise(rates[10:]))
    assert warmup_cosine(0, 1, 0.0) == 1

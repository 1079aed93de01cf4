"""Real nnU-Net checkpoints are read; files that are none are refused in one line."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.training.checkpoint_reading import read_checkpoint

pytestmark = pytest.mark.fast


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.fixture(scope="module")
def stock_checkpoint(toy, tmp_path_factory) -> Path:
    """Written by nnU-Net's own trainer after an epoch of logging."""
    with toy.active():
        trainer = nnUNetTrainer(
            toy.plans() | {"plans_name": "reading", "continue_training": False},
            "3d_fullres",
            0,
            json.loads((toy.dataset_folder / "dataset.json").read_text()),
            torch.device("cpu"),
        )
        trainer.initialize()
        for key in ("train_losses", "val_losses", "mean_fg_dice", "lrs", "epoch_start_timestamps"):
            trainer.logger.log(key, np.float32(0.5), 0)
        trainer.logger.log("dice_per_class_or_region", [np.float64(0.25)], 0)
        trainer._best_ema = np.float64(0.5)
        trainer.grad_scaler = torch.amp.GradScaler("cpu")
        file = tmp_path_factory.mktemp("stock") / "checkpoint_final.pth"
        trainer.save_checkpoint(str(file))
    return file


def test_a_stock_checkpoint_reads_as_stock_reads_it(stock_checkpoint: Path):
    ours = read_checkpoint(stock_checkpoint)
    stock = torch.load(stock_checkpoint, map_location="cpu", weights_only=False)

    assert ours.keys() == stock.keys()
    assert all(torch.equal(ours["network_weights"][key], value) for key, value in stock["network_weights"].items())
    assert ours["init_args"] == stock["init_args"]
    assert ours["_best_ema"] == 0.5
    assert ours["logging"] == stock["logging"]


def test_every_truncation_is_refused(stock_checkpoint: Path, tmp_path: Path):
    whole = stock_checkpoint.read_bytes()
    file = tmp_path / "checkpoint_latest.pth"
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(SemiSupervisedError, match="truncated or no checkpoint"):
            read_checkpoint(file)


def test_a_hole_in_the_middle_is_refused(stock_checkpoint: Path, tmp_path: Path):
    whole = bytearray(stock_checkpoint.read_bytes())
    whole[50:2000] = bytes(1950)
    file = tmp_path / "checkpoint_latest.pth"
    file.write_bytes(whole)
    with pytest.raises(SemiSupervisedError) as caught:
        read_checkpoint(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"network_weights": {}, "evil": Evil()}, "holds more than tensors.*system"),
        ({"state_dict": {"weight": torch.zeros(1)}}, "is no nnU-Net checkpoint"),
        ([1, 2], "is no nnU-Net checkpoint"),
    ],
)
def test_other_files_are_refused_unread(content, message: str, tmp_path: Path):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    file = tmp_path / "checkpoint_final.pth"
    file.write_bytes(buffer.getvalue())
    with pytest.raises(SemiSupervisedError, match=message) as caught:
        read_checkpoint(file)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(SemiSupervisedError, match=r"there is no checkpoint .*nowhere\.pth"):
        read_checkpoint(tmp_path / "nowhere.pth")

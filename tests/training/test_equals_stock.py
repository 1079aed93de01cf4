"""The promise: without settings, and with every weight at 0, nnU-Net's own training, bit for bit."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_semisup.configuration.sources import merged
from nnunetv2_semisup.data.random_streams import seed_global
from nnunetv2_semisup.data.views import without_timing
from tests.pretended_gpu import pretended_gpu
from tests.workspace import TINY, Workspace


class Recorded:
    """Losses, labelled batches and final weights of a training."""

    def __init__(self, trainer: Any, seed: int = 0) -> None:
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 3, 3, 1
        seed_global(seed)
        trainer.initialize()
        trainer.on_train_start()
        without_timing(trainer.dataloader_train.data_loader.transforms)
        seed_global(seed)
        self.losses: list[float] = []
        self.batches: list[torch.Tensor] = []
        for epoch in range(trainer.num_epochs):
            trainer.on_epoch_start()
            trainer.on_train_epoch_start()
            outputs = []
            for _ in range(trainer.num_iterations_per_epoch):
                batch = next(trainer.dataloader_train)
                self.batches.append(batch["data"].clone())
                outputs.append(trainer.train_step(batch))
            self.losses += [float(output["loss"]) for output in outputs]
            trainer.on_train_epoch_end(outputs)
            with torch.no_grad():
                trainer.on_validation_epoch_start()
                trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val))])
            trainer.on_epoch_end()
            assert trainer.current_epoch == epoch + 1
        self.weights = copy.deepcopy(trainer.network.state_dict())
        self.trainer = trainer


def stock(workspace: Workspace, device: str = "cpu") -> Recorded:
    return Recorded(workspace.trainer(nnUNetTrainer, plans_name="stock", device=device))


def assert_equal(ours: Recorded, theirs: Recorded) -> None:
    assert ours.losses == theirs.losses
    assert all(torch.equal(a, b) for a, b in zip(ours.batches, theirs.batches, strict=True))
    assert ours.weights.keys() == theirs.weights.keys()
    assert all(torch.equal(ours.weights[key], theirs.weights[key]) for key in theirs.weights)


def test_labeled_only_without_settings_equals_stock(in_toy):
    assert_equal(Recorded(in_toy.trainer("nnUNetTrainerLabeledOnly", plans_name="bare")), stock(in_toy))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_zero_weights_equal_stock(in_toy, device):
    """All weights 0: nothing unlabelled is drawn or computed. On a GPU in half precision, with a gradient scaler."""
    settings = {"mi": {"weight": 0.0}, "pseudo_label": {"cross_entropy": 0.0, "dice": 0.0}}
    with pretended_gpu() if device == "cuda" else nullcontext():
        ours = Recorded(in_toy.trainer("nnUNetTrainerMIReg", settings, plans_name="zero", device=device))
        theirs = stock(in_toy, device)
    assert_equal(ours, theirs)
    scale = [None if one.trainer.grad_scaler is None else one.trainer.grad_scaler.get_scale() for one in (ours, theirs)]
    assert scale[0] == scale[1]
    assert (scale[0] is None) == (device == "cpu")


def test_rounds_without_weights_equal_stock(in_toy):
    """Without anything to learn from in a round, none begins, and the learning rate is not restarted."""
    settings = {"pseudo_label": {"cross_entropy": 0.0, "dice": 0.0}, "rounds": {"network": "restart"}}
    ours = Recorded(in_toy.trainer("nnUNetTrainerSelfTraining", settings, plans_name="zero_rounds"))
    assert_equal(ours, stock(in_toy))


@pytest.mark.parametrize("form", ["own_view", "mean_teacher", "weak_to_strong"])
def test_labelled_batches_equal_stock_whatever_the_weights(in_toy, form):
    """The unlabelled step draws from streams of its own, so it must change the weights and nothing else."""
    settings = merged({"schedule": {"warmup": 0.0, "ramp": 0.0}}, {"output": {"form": form}})
    ours = Recorded(in_toy.trainer("nnUNetTrainerMIReg", settings, plans_name=f"full_{form}"))
    theirs = stock(in_toy)
    assert all(torch.equal(a, b) for a, b in zip(ours.batches, theirs.batches, strict=True))
    assert ours.losses[0] == theirs.losses[0]
    assert ours.losses[1:] != theirs.losses[1:]


def test_a_vanishing_weight_goes_through_the_whole_machinery_and_hardly_moves_the_network(in_toy):
    """Every part runs (loader, teacher, heads, two backwards); with weight 1e-12 the losses stay stock's."""
    settings = {
        "schedule": {"warmup": 0.0, "ramp": 0.0},
        "mi": {"weight": 1e-12},
        "pseudo_label": {"cross_entropy": 1e-12, "dice": 1e-12},
    }
    ours = Recorded(in_toy.trainer("nnUNetTrainerMIReg", settings, plans_name="vanishing"))
    assert ours.trainer.run_log is not None
    assert ours.losses == pytest.approx(stock(in_toy).losses, abs=1e-5)


def test_seeded_length_is_obeyed(in_toy):
    trainer = in_toy.trainer("nnUNetTrainerLabeledOnly", TINY, plans_name="length")
    trainer.run_training()
    assert trainer.current_epoch == 3
    assert len(trainer.logger.get_value("train_losses", None)) == 3

"""One pass of the labelled batch serves its own loss and the terms that read its features."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from nnunetv2_semisup.configuration.sources import merged
from nnunetv2_semisup.networks.features import forward_with_features
from nnunetv2_semisup.regularizers.base import Labeled, Step
from tests.workspace import TINY

STORED = {"contrast": {"pseudo_labels": "rounds", "weight": 3.0}}


class Again:
    """The same batch for ever."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch

    def __next__(self) -> dict[str, Any]:
        return self.batch


def ready(workspace, plans_name, changes=STORED):
    """A trainer of its last epoch that steps no optimiser, its labelled batch, and its unlabelled one."""
    trainer = workspace.trainer("nnUNetTrainerLocalContrast", merged(TINY, changes), plans_name=plans_name)
    trainer.on_train_start()
    trainer.current_epoch = trainer._rounds.starts[-1] if trainer._rounds else 2
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    batch = next(trainer.dataloader_unlabeled)
    # Each class in each half of every patch, whatever two steps of training predict.
    batch["pseudo_label"] = torch.arange(batch["valid"].numel()).view(batch["valid"].shape).remainder(5).to(torch.int16)
    trainer.dataloader_unlabeled = Again(batch)
    trainer._step_optimizers = lambda: None
    return trainer, next(trainer.dataloader_train), batch


def gradients(modules):
    return [p.grad.clone() for module in modules for p in module.parameters() if p.grad is not None]


def test_the_gradients_are_those_of_the_sum_of_both_losses(in_toy):
    trainer, labeled, unlabeled = ready(in_toy, "joint")
    state, samples = trainer.generator.get_state(), trainer.cost.samples
    loss = trainer.train_step(labeled)["loss"]
    assert trainer.cost.samples - samples == len(labeled["data"]) + len(unlabeled["valid"])
    ours = gradients([trainer.network, trainer.heads])
    trainer._zero_gradients()
    trainer.generator.set_state(state)
    supervised = trainer.loss(trainer.network(labeled["data"]), labeled["target"])
    assert supervised.item() == loss
    _, (features,) = forward_with_features(trainer.network, labeled["data"], (-1,))
    step = Step(
        views=tuple(unlabeled["views"]),
        valid=unlabeled["valid"],
        student=partial(forward_with_features, trainer.network),
        teacher=None,
        second_decoder=None,
        peer=None,
        labeled=Labeled(labeled["data"], labeled["target"][0], features),
        pseudo_label=unlabeled["pseudo_label"],
        progress=0.5,
        number=0,
        generator=trainer.generator,
        reduce=lambda tensor: tensor,
    )
    term = trainer.heads[0](step).terms["contrast"]
    assert term > 0
    (supervised + 3 * term).backward()
    theirs = gradients([trainer.network, trainer.heads])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_poisoned_pseudo_labels_leave_the_segmentation_layers_their_supervised_gradient(in_toy):
    trainer, labeled, unlabeled = ready(in_toy, "poisoned")
    of_layers, of_encoder = [], []
    for poison in (0, 3):
        unlabeled["pseudo_label"] = unlabeled["pseudo_label"].roll(poison, dims=-1)
        trainer.train_step(labeled)
        of_layers.append(gradients([trainer.network.decoder.seg_layers]))
        of_encoder.append(gradients([trainer.network.encoder]))
    trainer._zero_gradients()
    trainer._supervised_backward(trainer.network, labeled["data"], labeled["target"])
    supervised = gradients([trainer.network.decoder.seg_layers])
    for found in of_layers:
        assert all(torch.equal(a, b) for a, b in zip(found, supervised, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(*of_encoder, strict=True))


@pytest.mark.parametrize("weight", [0.0])
def test_at_weight_0_nothing_unlabelled_is_drawn(in_toy, weight):
    settings = merged(TINY, {"contrast": {"weight": weight}})
    trainer = in_toy.trainer("nnUNetTrainerLocalContrast", settings, plans_name="weightless")
    trainer.run_training()
    assert trainer.cost.samples == 3 * 2 * 2

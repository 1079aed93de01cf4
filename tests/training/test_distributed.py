"""Two gloo processes, each with half the samples, equal one process with all of them."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_semisup.data.pseudo_labels import UNKNOWN
from nnunetv2_semisup.methods import methods, trainer_class
from nnunetv2_semisup.networks.ema import make_teacher
from nnunetv2_semisup.regularizers.base import Labeled
from nnunetv2_semisup.training.cost import Cost
from nnunetv2_semisup.training.distributed import average_gradients, broadcast, summed
from nnunetv2_semisup.training.partial_loss import PartialLoss
from tests.regularizers.toy_step import build, facts_of, labeled_batch, network_of, pseudo_label, random_views, step_of
from tests.training.test_labeled_pass import known, labels, logits, stock_loss

UNMIXED = {"mixing": {"share": 0.0}, "pseudo_label": {"threshold": 0.0}}
STILL = {
    "transform": {"rotation": 0.0, "scale": [1.0, 1.0], "translation": 0.0, "gamma": [1.0, 1.0]},
    "boundary": {"flat": 1e-3},
}
SAME_DRAWS = {
    "fixmatch": UNMIXED,
    "bim": STILL,
    "bimpretrain": STILL,
    "localcontrast": {"contrast": {"pseudo_labels": "rounds", "least_voxels": 1}},
    "mireg": UNMIXED,
    "mixedkd": UNMIXED,
    "uamt": {"uncertainty": {"noise": 0.0, "start": 1.0, "end": 1.0}},
}
"""A process draws for its own samples alone: settings that leave nothing to the draw, and no voxel or window out."""
OF_SINGLE_VOXELS = ("localcontrast",)
"""Methods that draw voxels of a class: each class has one, and all others have no label."""
IGNORED = 3
METHODS = [method for method, trainer in sorted(methods().items()) if trainer_class(trainer).regularizers]


def gradients(method: str, samples: slice, wrap: bool) -> list[torch.Tensor]:
    """One step as the engine does it: forwards beside the wrapper, one backward, one average."""
    network = network_of()
    rank = distributed.get_rank() if wrap else 0
    facts = facts_of(network, mirror_axes=(), ignore_label=IGNORED)
    regularizer = build(method, facts, SAME_DRAWS.get(method), seed=rank)
    broadcast(regularizer)
    wrapped = DistributedDataParallel(network) if wrap else network
    views = tuple(view[samples] for view in random_views(batch=4)[: len(regularizer.views)])
    labeled = labeled_batch(facts, batch=4)
    target, stored = labeled.target, pseudo_label(facts, batch=4).clamp_min(0)
    if method in OF_SINGLE_VOXELS:
        target, stored = (single_voxels(unknown) for unknown in (IGNORED, UNKNOWN))
    labeled = Labeled(labeled.images[samples], target[samples])
    teacher = make_teacher(network_of(seed=1))
    step = step_of(network, regularizer, views, teacher=teacher, reduce=summed, stored=stored[samples], labeled=labeled)
    terms = regularizer(step).terms
    sum(regularizer.weights[name] * term for name, term in terms.items()).backward()
    parameters = [*wrapped.parameters(), *regularizer.parameters()]
    average_gradients(parameters)
    return [p.grad.clone() for p in parameters if p.grad is not None]


def single_voxels(unknown: int) -> torch.Tensor:
    """Labels of four patches, one voxel for each of the classes 0 to 2 in places of its own, the rest unknown."""
    labels = torch.full((4, 1, 16, 16, 16), unknown, dtype=torch.int16)
    for sample, label in product(range(4), range(3)):
        labels[sample, 0, 3 * sample + label, 5 * label, 7] = label
    return labels


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for method in METHODS:
        torch.save(gradients(method, slice(2 * rank, 2 * rank + 2), wrap=True), f"{folder}/{method}_{rank}.pt")
    torch.save(cost_of_two_epochs(rank), f"{folder}/cost_{rank}.pt")
    torch.save(partial_loss_gradient(slice(2 * rank, 2 * rank + 2)), f"{folder}/partial_{rank}.pt")
    distributed.destroy_process_group()


def partial_loss_gradient(samples: slice) -> torch.Tensor:
    """Of a Dice over the whole batch at the logits, where nothing of the first sample is annotated."""
    target = labels(4)
    target[0] = IGNORED
    stock = stock_loss(batch_dice=True, ddp=distributed.is_initialized())
    stock.weight_ce = 0  # a mean over each process's own voxels
    z = logits(4).detach()[samples].requires_grad_()
    PartialLoss(stock, known(), with_dice=True)([z], [target[samples]]).backward()
    assert z.grad is not None
    return z.grad


def cost_of_two_epochs(rank: int) -> tuple[float, float, int]:
    """Two epochs of a training that goes on; the first process has the larger part of each batch, as nnU-Net may do."""
    cost = Cost()
    cost.go_on_from(asdict(Cost(samples=100, gradient_samples=50, epochs=1)))
    for _ in range(2):
        cost.count(2 - rank, gradient=True)
        cost.count(2 - rank, gradient=False)
        cost.end_epoch(1.0, torch.device("cpu"))
    return cost.samples, cost.gradient_samples, cost.epochs


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every method's gradients in two processes, which take longer to start than all of them together."""
    folder = tmp_path_factory.mktemp("two")
    multiprocessing.start_processes(work, (str(folder),), nprocs=2, start_method="spawn")
    return folder


def work_on_gpu(rank: int, folder: str) -> None:
    distributed.init_process_group("nccl", init_method=f"file://{folder}/nccl", rank=rank, world_size=1)
    layer = broadcast_layer().cuda()
    broadcast(layer)
    (summed(layer.weight) ** 2).sum().backward()
    average_gradients(layer.parameters())
    torch.save(layer.weight.grad.cpu(), f"{folder}/nccl.pt")
    distributed.destroy_process_group()


def broadcast_layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2, bias=False)


@pytest.mark.gpu
def test_one_process_on_a_gpu(tmp_path: Path):
    multiprocessing.start_processes(work_on_gpu, (str(tmp_path),), nprocs=1, start_method="spawn")
    torch.testing.assert_close(torch.load(tmp_path / "nccl.pt"), 2 * broadcast_layer().weight.detach())


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_equal_one(of_two: Path, method: str):
    first, second = (torch.load(of_two / f"{method}_{rank}.pt") for rank in (0, 1))
    whole = gradients(method, slice(0, 4), wrap=False)
    assert len(first) == len(whole) > 0
    for a, b, expected in zip(first, second, whole, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, expected, rtol=1e-3, atol=1e-6)


def test_samples_are_those_of_all_processes(of_two: Path):
    for rank in range(2):
        assert torch.load(of_two / f"cost_{rank}.pt") == (100 + 2 * 6, 50 + 2 * 3, 3)


def test_a_partial_dice_over_the_batch_is_that_of_all_processes(of_two: Path):
    of_each = torch.cat([torch.load(of_two / f"partial_{rank}.pt") for rank in range(2)])
    torch.testing.assert_close(of_each / 2, partial_loss_gradient(slice(0, 4)))


def test_a_single_process_does_nothing():
    x = torch.ones(3, requires_grad=True)
    assert summed(x) is x
    layer = nn.Linear(2, 2)
    layer.weight.grad = torch.ones(2, 2)
    average_gradients(layer.parameters())
    assert torch.equal(layer.weight.grad, torch.ones(2, 2))

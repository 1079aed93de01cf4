"""The labelled batch of mixed supervision: which rows reach which loss, below the trainer."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.networks.second_decoder import forward_both, on_one_encoder, own_parameters
from nnunetv2_semisup.training.cost import Cost
from nnunetv2_semisup.training.distributed import average_gradients
from nnunetv2_semisup.training.labeled_pass import LabeledPass
from nnunetv2_semisup.training.partial_loss import PartialLoss
from nnunetv2_semisup.training.run_log import EpochMeans
from tests.networks.networks import plain
from tests.regularizers.toy_step import build, facts_of

pytestmark = pytest.mark.fast

IGNORE = 3
DEEP = (2 / 3, 1 / 3, 0.0)
"""Weights of nnU-Net's deep supervision for three resolutions: halved at each, the last 0."""


def stock_loss(batch_dice: bool = False, deep: bool = False, regions: bool = False, ddp: bool = False) -> nn.Module:
    """As nnUNetTrainer builds it, with an ignore label."""
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "ddp": ddp}
    loss: nn.Module
    if regions:
        loss = DC_and_BCE_loss(
            {}, dice | {"do_bg": True}, use_ignore_label=True, dice_class=MemoryEfficientSoftDiceLoss
        )
    else:
        loss = DC_and_CE_loss(dice | {"do_bg": False}, {}, ignore_label=IGNORE, dice_class=MemoryEfficientSoftDiceLoss)
    return DeepSupervisionWrapper(loss, DEEP) if deep else loss


def known(regions: bool = False) -> Any:
    facts = facts_of(plain(deep_supervision=False), has_regions=regions, ignore_label=IGNORE)
    return partial(facts.known, classes=3)


def logits(batch: int = 3, size: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, size, size, size, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def labels(batch: int = 3, size: int = 6, annotated: float = 0.3, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(3, (batch, 1, size, size, size), generator=generator)
    sees = torch.rand(values.shape, generator=generator) < annotated
    return torch.where(sees, values, IGNORE)


def region_labels(values: Tensor) -> Tensor:
    """nnU-Net's target of the regions (1, 2), 1, 2 and, as the last channel, of the ignore label."""
    channels = [(values == 1) | (values == 2), values == 1, values == 2, values == IGNORE]
    return torch.cat(channels, dim=1).to(torch.int16)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_property_8_values_at_ignored_voxels_do_not_count(regions, batch_dice):
    values = labels()
    target = region_labels(values) if regions else values
    z, loss = logits(), PartialLoss(stock_loss(batch_dice, regions=regions), known(regions), with_dice=True)
    first = loss([z], [target])
    (gradient,) = torch.autograd.grad(first, z)
    ignored = (values == IGNORE).expand_as(z)
    assert (gradient[ignored] == 0).all()
    assert gradient[~ignored].abs().sum() > 0
    moved = torch.where(ignored, z + 5 * logits(seed=3), z)
    torch.testing.assert_close(loss([moved], [target]), first)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("with_dice", [False, True])
def test_property_8_nothing_annotated_is_0_without_gradient(regions, with_dice):
    values = torch.full_like(labels(), IGNORE)
    target = region_labels(values) if regions else values
    z = logits()
    value = PartialLoss(stock_loss(regions=regions), known(regions), with_dice)([z], [target])
    assert value == 0
    value.backward()
    assert (z.grad == 0).all()


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_property_9_fully_ignored_rows_leave_the_gradient_of_the_others_unchanged(regions, batch_dice):
    """nnU-Net's own loss halves the Dice gradient where each second row is ignored and batch_dice is off."""
    z, values = logits(4), labels(4)
    values[2:] = IGNORE
    target = region_labels(values) if regions else values
    loss = PartialLoss(stock_loss(batch_dice, regions=regions), known(regions), with_dice=True)
    (with_ignored,) = torch.autograd.grad(loss([z], [target]), z)
    (alone,) = torch.autograd.grad(loss([z[:2]], [target[:2]]), z)
    torch.testing.assert_close(with_ignored, alone)
    if not batch_dice:
        (diluted,) = torch.autograd.grad(stock_loss(regions=regions)(z, target), z)
        assert not torch.allclose(diluted, alone)


def test_property_11_resolutions_at_which_the_annotation_vanished_say_nothing_and_the_coarsest_never_does():
    assert sum(DEEP) == 1
    assert DEEP[-1] == 0
    values = torch.full((2, 1, 8, 8, 8), IGNORE)
    values[0, 0, 4, 4, 4] = 1
    values[0, 0, 2, 3, 3] = 0
    values[1, 0, 3, 3, 3] = 1
    outputs = [logits(2, size, seed=size) for size in (8, 4, 2)]
    targets = [values[..., ::step, ::step, ::step] for step in (1, 2, 4)]
    loss = PartialLoss(stock_loss(deep=True), known(), with_dice=True)
    loss(outputs, targets).backward()
    assert outputs[2].grad is None
    assert outputs[1].grad[0].abs().sum() > 0
    assert (outputs[1].grad[1] == 0).all()
    plain_loss = stock_loss()
    expected = DEEP[0] * plain_loss(outputs[0], targets[0]) + DEEP[1] * plain_loss(outputs[1][:1], targets[1][:1])
    torch.testing.assert_close(loss(outputs, targets), expected)


def test_without_dice_it_is_the_cross_entropy_of_the_annotated_voxels():
    z, target = logits(), labels()
    value = PartialLoss(stock_loss(), known(), with_dice=False)([z], [target])
    torch.testing.assert_close(value, nn.functional.cross_entropy(z, target[:, 0], ignore_index=IGNORE))


# ------------------------------------------------------------------ the pass


def images(batch: int, seed: int = 5) -> Tensor:
    return torch.randn(batch, 2, 16, 16, 16, generator=torch.Generator().manual_seed(seed))


def batch_of(n_dense: int, n_sparse: int) -> tuple[Tensor, list[Tensor]]:
    """Images, and targets at the three resolutions of the toy network."""
    values = torch.cat([labels(n_dense, 16, 1.0), labels(n_sparse, 16, 0.2, seed=2)])
    return images(n_dense + n_sparse), [values[..., ::step, ::step, ::step] for step in (1, 2)]


def the_pass(changes: dict[str, Any] | None = None, with_dice: bool = True, **loss: Any) -> LabeledPass:
    regularizer = build("mixedkd", facts_of(plain(deep_supervision=False), ignore_label=IGNORE), changes)
    own = {"deep": True} | loss
    stock, sparse = (stock_loss(**own) for _ in range(2))
    for each in (stock, sparse):
        each.weight_factors = (2 / 3, 1 / 3)
    return LabeledPass(
        regularizer, stock, PartialLoss(sparse, known(), with_dice), forward_both, EpochMeans(), Cost(), nullcontext,
        lambda loss: loss,
    )  # fmt: skip


def two_networks() -> tuple[nn.Module, nn.Module]:
    student = plain(seed=0)
    return student, on_one_encoder(student, plain(seed=1))


def run(
    labeled_pass: LabeledPass,
    n_dense: int,
    n_sparse: int,
    factor: float = 1.0,
    teacher: bool = True,
    log: bool = False,
    garbage: bool = False,
) -> tuple[Tensor, nn.Module, nn.Module]:
    """Both batches; the losses' sum, and the networks with their gradients."""
    student, second = two_networks()
    data, targets = batch_of(n_dense, n_sparse)
    common = student, second if teacher else None, factor, log
    loss = labeled_pass.dense(data[:n_dense], [t[:n_dense] for t in targets], *common)
    if n_sparse:
        sparse = [torch.zeros_like(t[n_dense:]) if garbage else t[n_dense:] for t in targets]
        loss = loss + labeled_pass.sparse(data[n_dense:], sparse, *common)
    return loss, student, second


def gradients(network: nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in network.parameters()]


def test_property_1_without_weak_weights_teacher_and_sparse_rows_it_is_nnunets_loss():
    zero = {"teacher": {"weight": 0.0}, "kd": {"weight": 0.0}, "entropy": {"weight": 0.0}}
    loss, student, _ = run(the_pass(zero), 3, 0, teacher=False)
    expected = plain(seed=0)
    data, targets = batch_of(3, 0)
    stock = the_pass().loss(expected(data), targets)
    stock.backward()
    assert torch.equal(loss, stock)
    for ours, theirs in zip(gradients(student), gradients(expected), strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)


def test_the_students_loss_is_nnunets_of_dense_patches_and_the_weighted_one_of_sparse_patches():
    labeled_pass = the_pass({"sparse": {"weight": 0.5}})
    loss, found, _ = run(labeled_pass, 1, 3, factor=0.0, teacher=False)
    student, _ = two_networks()
    data, targets = batch_of(1, 3)
    outputs = student(data)
    dense = labeled_pass.loss([o[:1] for o in outputs], [t[:1] for t in targets])
    sparse = labeled_pass.sparse_loss([o[1:] for o in outputs], [t[1:] for t in targets])
    expected = dense + 0.5 * sparse
    torch.testing.assert_close(loss, expected.detach())
    expected.backward()
    for ours, theirs in zip(gradients(found), gradients(student), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_property_12_labels_of_sparse_patches_never_reach_the_teacher():
    """Nor its decoder any gradient from what the student learns there."""
    found = []
    for garbage in (False, True):
        _, _, teacher = run(the_pass(), 2, 2, garbage=garbage)
        found.append([p.grad for p in own_parameters(teacher) if p.grad is not None])
    assert found[0]
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_property_12_the_teacher_sees_sparse_patches_where_it_teaches_everywhere_alone():
    for domain, batches in (("dense", [2]), ("all", [2, 1])):
        seen: list[int] = []
        labeled_pass = the_pass({"kd": {"domain": domain}})
        student, teacher = two_networks()
        teacher.decoder.stages[0].register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(len(inputs[0])))
        data, targets = batch_of(2, 1)
        labeled_pass.dense(data[:2], [t[:2] for t in targets], student, teacher, 1.0, False)
        labeled_pass.sparse(data[2:], [t[2:] for t in targets], student, teacher, 1.0, False)
        assert seen == batches


@pytest.mark.parametrize("form", ["kl", "legacy"])
def test_property_4_distillation_moves_the_teachers_decoder_in_the_released_form_alone(form):
    alone, with_kd = (run(the_pass({"kd": {"weight": weight, "form": form}}), 2, 1)[2] for weight in (0.0, 5.0))
    same = [
        torch.equal(a.grad, b.grad)
        for a, b in zip(own_parameters(alone), own_parameters(with_kd), strict=True) if a.grad is not None
    ]  # fmt: skip
    assert all(same) == (form == "kl")


def test_property_11_the_weak_terms_read_the_full_resolution_alone():
    changes = {"teacher": {"weight": 1.0}, "entropy": {"domain": "all", "weight": 1.0}}
    parts = []
    for factor in (0.0, 1.0):
        _, student, _ = run(the_pass(changes), 2, 1, factor=factor)
        parts.append([layer.weight.grad for layer in student.decoder.seg_layers])
    *coarse, fine = zip(*parts, strict=True)
    assert all(torch.equal(a, b) for a, b in coarse if a is not None)
    assert not torch.equal(*fine)


@pytest.mark.parametrize(("domain", "passes"), [("all", (3, 4)), ("dense", (3, 3))])
def test_costs_are_passes_of_the_sparse_patches_and_of_the_teacher_with_and_without_gradient(domain, passes):
    """The engine counts the student's pass of the dense ones."""
    labeled_pass = the_pass({"kd": {"domain": domain}})
    run(labeled_pass, 2, 1)
    assert (labeled_pass.cost.gradient_samples, labeled_pass.cost.samples) == passes
    in_warmup = the_pass({"kd": {"domain": domain}})
    run(in_warmup, 2, 1, factor=0.0)
    assert in_warmup.cost.samples == 3


def test_terms_signs_and_gradients_are_logged():
    labeled_pass = the_pass({"kd": {"domain": "all"}, "entropy": {"domain": "all", "form": "shannon"}})
    run(labeled_pass, 1, 1, factor=0.5, log=True)
    means = labeled_pass.means.take()
    for name, weight in labeled_pass.regularizer.labeled_weights.items():
        assert means[f"weighted/{name}"] == pytest.approx(0.5 * weight * means[f"raw/{name}"])
        assert means[f"grad/{name}"] > 0
    assert {"sign/foreground", "sign/foreground_dense", "sign/agreement", "sign/divergence"} <= means.keys()


def test_property_18_mixed_precision_and_loss_scaling_leave_the_gradients_what_they_are():
    found = []
    half = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    for autocast, scale in ((nullcontext, 1.0), (half, 1024.0)):
        scaled = replace(the_pass(), autocast=autocast, scaled=lambda loss, scale=scale: scale * loss)
        _, student, _ = run(scaled, 1, 1)
        found.append([p.grad / scale for p in student.parameters() if p.grad is not None])
    for whole, mixed in zip(*found, strict=True):
        if whole.norm() > 1e-3:
            assert nn.functional.cosine_similarity(whole.flatten(), mixed.flatten(), dim=0) > 0.9
            assert mixed.norm() / whole.norm() == pytest.approx(1, abs=0.2)


def test_a_loss_of_the_users_keeps_its_dice_or_is_refused():
    class Own(nn.Module):
        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return output.mean()

    z, target = logits(), labels()
    assert PartialLoss(Own(), known(), with_dice=True)([z], [target]) == z.mean()
    with pytest.raises(SemiSupervisedError, match="Own cannot leave out its Dice; annotate some background"):
        PartialLoss(Own(), known(), with_dice=False)


# ------------------------------------------------------------------ two processes


def step(rows: slice, wrap: bool) -> list[Tensor]:
    """A labelled step as the engine does it, on these of two dense and of two sparse samples.

    Both sparse ones are annotated in equally many voxels, since nnU-Net's cross-entropy is a mean over those.
    """
    student, teacher = two_networks()
    wrapped = DistributedDataParallel(student) if wrap else student
    data, _ = batch_of(2, 2)
    values = labels(4, 16, 1.0)
    values[2:, :, ::2] = IGNORE
    targets = [values[..., ::step, ::step, ::step] for step in (1, 2)]
    labeled_pass = the_pass(batch_dice=True, ddp=wrap)
    for call, samples in ((labeled_pass.dense, slice(2)), (labeled_pass.sparse, slice(2, 4))):
        call(data[samples][rows], [t[samples][rows] for t in targets], student, teacher, 1.0, False)
    parameters = [*wrapped.parameters(), *own_parameters(teacher)]
    average_gradients(parameters)
    return [p.grad.clone() for p in parameters if p.grad is not None]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(step(slice(rank, rank + 1), wrap=True), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_property_18_two_processes_equal_one(tmp_path: Path):
    multiprocessing.start_processes(work, (str(tmp_path),), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    whole = step(slice(0, 2), wrap=False)
    assert len(first) == len(whole) > 0
    for a, b, expected in zip(first, second, whole, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, expected, rtol=1e-3, atol=1e-6)

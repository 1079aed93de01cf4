"""A second decoder on one encoder, and one pass through both."""

from __future__ import annotations

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_semisup.networks.second_decoder import forward_both, on_one_encoder, own_parameters
from tests.networks.networks import images, plain, residual

pytestmark = pytest.mark.fast


def two(build=plain, **options):
    student = build(seed=0, **options)
    return student, on_one_encoder(student, build(seed=1, **options))


def decoder_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value for key, value in network.decoder.state_dict().items() if not key.startswith("encoder.")}


@pytest.mark.parametrize("build", [plain, residual])
def test_property_3_there_is_one_encoder_and_every_parameter_is_counted_once(build):
    student, teacher = two(build)
    assert id(teacher.encoder) == id(teacher.decoder.encoder) == id(student.encoder) == id(student.decoder.encoder)
    ours, theirs = list(student.parameters()), own_parameters(teacher)
    assert len({id(p) for p in (*ours, *theirs)}) == len(ours) + len(theirs)
    of_decoder = [p for name, p in student.decoder.named_parameters() if not name.startswith("encoder.")]
    assert [p.shape for p in theirs] == [p.shape for p in of_decoder]
    for (key, a), b in zip(decoder_of(student).items(), decoder_of(teacher).values(), strict=True):
        assert "conv.weight" not in key or not torch.equal(a, b), key


@pytest.mark.parametrize("build", [plain, residual])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("deep", [False, True])
def test_one_pass_equals_two(build, dim, deep):
    student, teacher = two(build, dim=dim, deep_supervision=deep)
    x = images(dim, batch=3)
    both = forward_both(student, teacher, x, True)
    ours, theirs = student(x), teacher(x)
    ours, theirs = (outputs if deep else [outputs] for outputs in (ours, theirs))
    assert len(both.student) == len(both.teacher) == len(ours)
    for mine, expected in zip((*both.student, *both.teacher), (*ours, *theirs), strict=True):
        assert torch.equal(mine, expected)
        assert mine.requires_grad


def test_a_teacher_that_does_not_learn_says_the_same_without_gradient():
    student, teacher = two()
    x = images(batch=2)
    still, learning = (forward_both(student, teacher, x, learns) for learns in (False, True))
    assert still.student[0].requires_grad
    assert not still.teacher[0].requires_grad
    assert torch.equal(still.teacher[0], learning.teacher[0])
    with torch.no_grad():
        assert not forward_both(student, teacher, x, True).teacher[0].requires_grad


def test_training_one_decoder_moves_the_encoder_of_both():
    student, teacher = two()
    both = forward_both(student, teacher, images(), True)
    both.teacher[0].square().mean().backward()
    assert all(p.grad is not None for p in student.encoder.parameters())
    assert all(value.grad is None for value in student.decoder.seg_layers.parameters())


def test_one_graph_without_breaks():
    torch._dynamo.reset()
    student, teacher = two()
    compiled = torch.compile(forward_both, backend="eager", fullgraph=True)
    x = images(batch=2)
    for learns in (True, False):
        both, expected = (call(student, teacher, x, learns) for call in (compiled, forward_both))
        torch.testing.assert_close(both.student[0], expected.student[0])
        torch.testing.assert_close(both.teacher[0], expected.teacher[0])
        assert both.teacher[0].requires_grad == learns


# ------------------------------------------------------------------ cost, on nnU-Net's own plan and without computing


def planned() -> nn.Module:
    """A network of nnU-Net's planner for 80 x 192 x 160 voxels, with deep supervision, on no device."""
    strides = [[1] * 3, *[[2] * 3] * 4, [1, 2, 2]]
    with torch.device("meta"):
        return PlainConvUNet(
            1, 6, (32, 64, 128, 256, 320, 320), nn.Conv3d, 3, strides, 2, 2, 2, conv_bias=True,
            norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True}, deep_supervision=True,
        )  # fmt: skip


def cost_of(call) -> tuple[float, float]:
    """Floating-point operations of a forward and its backward, and bytes that the forward keeps for it."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
        return tensor.detach()

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = call()
            loss = sum(output.sum() for output in outputs)
        loss.backward()
    return counter.get_total_flops(), sum(kept.values())


def test_property_17_operations_memory_and_parameters_are_those_of_one_more_decoder():
    student, teacher = planned(), planned()
    with torch.device("meta"):
        x = torch.empty(2, 1, 80, 192, 160)
    alone = cost_of(lambda: student(x))
    on_one_encoder(student, teacher)

    def both() -> list[torch.Tensor]:
        outputs = forward_both(student, teacher, x, True)
        return [*outputs.student, *outputs.teacher]

    together = cost_of(both)
    assert together[0] / alone[0] == pytest.approx(1.71, abs=0.02)
    assert together[1] / alone[1] == pytest.approx(1.60, abs=0.05)
    ours, theirs = (sum(p.numel() for p in ps) for ps in (student.parameters(), own_parameters(teacher)))
    assert theirs / ours == pytest.approx(0.54, abs=0.01)

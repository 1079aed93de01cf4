"""The joint and the entropies of two maps of logits, against what they are made of."""

import pytest
import torch

from nnunetv2_semisup.losses.assignments import joint_and_entropies
from nnunetv2_semisup.losses.entropy import shannon_entropy
from nnunetv2_semisup.losses.regularised_information import assignment_joint

pytestmark = pytest.mark.fast

SHAPES = [(2, 5, 4, 6), (2, 5, 3, 4, 6)]


def maps(shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    first, second = (3 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.rand((shape[0], 1, *shape[2:]), generator=generator) < 0.7
    return first.to(dtype).requires_grad_(), second.to(dtype).requires_grad_(), mask


def composed(first, second, mask):
    z1, z2 = first.softmax(1), second.softmax(1)
    return assignment_joint(z1, z2, mask), *(shannon_entropy(z, eps=1e-300).unsqueeze(1) for z in (z1, z2))


def weighted(outputs):
    """A scalar in which every output has a gradient of its own."""
    return sum((output * torch.linspace(-1, 2, output.numel()).view_as(output)).sum() for output in outputs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_masked", [False, True])
def test_values_and_gradients_are_those_of_the_parts(shape, is_masked):
    first, second, mask = maps(shape)
    mask = mask if is_masked else None
    ours, theirs = joint_and_entropies(first, second, mask), composed(first, second, mask)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    gradients = [torch.autograd.grad(weighted(outputs), [first, second]) for outputs in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("used", [0, 1, 2])
def test_any_output_may_be_the_only_one_in_use(used):
    first, second, mask = maps(SHAPES[1])
    ours, theirs = joint_and_entropies(first, second, mask)[used], composed(first, second, mask)[used]
    for a, b in zip(
        torch.autograd.grad(weighted([ours]), [first, second]),
        torch.autograd.grad(weighted([theirs]), [first, second], materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_gradcheck():
    first, second, mask = maps((1, 3, 2, 3))
    assert torch.autograd.gradcheck(lambda a, b: joint_and_entropies(a, b, mask), (first, second))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    first, second, mask = maps(SHAPES[1], dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = joint_and_entropies(first, second, mask)
    assert {output.dtype for output in outputs} == {torch.float32}
    expected = composed(first.float(), second.float(), mask)
    for a, b in zip(outputs, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    weighted(outputs).backward()
    assert first.grad.dtype == dtype


def test_sure_assignments_have_no_entropy_and_finite_gradients():
    first = (1e4 * torch.eye(4)[None]).requires_grad_()
    joint, entropy, _ = joint_and_entropies(first, first)
    torch.testing.assert_close(joint, torch.eye(4))
    assert torch.equal(entropy, torch.zeros(1, 1, 4))
    weighted([joint, entropy]).backward()
    assert torch.isfinite(first.grad).all()


def test_without_a_valid_voxel_the_joint_is_zero():
    first, second, mask = maps(SHAPES[0])
    joint, *_ = joint_and_entropies(first, second, torch.zeros_like(mask))
    assert torch.equal(joint, torch.zeros_like(joint))


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="one shape"):
        joint_and_entropies(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))
    with pytest.raises(ValueError, match="the mask"):
        joint_and_entropies(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.ones(1, 1, 4, dtype=torch.bool))

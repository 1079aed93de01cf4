"""The teacher follows the student, each tensor once, and never takes a gradient."""

import pytest
import torch

from nnunetv2_semisup.networks.ema import make_teacher, update_teacher
from tests.networks.networks import images, plain

pytestmark = pytest.mark.fast


def test_the_teacher_starts_as_an_exact_copy():
    student = plain()
    teacher = make_teacher(student)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), teacher.parameters(), strict=True))
    assert not any(a is b for a, b in zip(student.parameters(), teacher.parameters(), strict=True))
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.training


@pytest.mark.parametrize(("decay", "step", "effective"), [(0.9, 100, 0.9), (0.99, 1, 0.5), (0.99, 3, 0.75)])
def test_every_tensor_moves_once(decay, step, effective):
    """A loop over the state dict would apply the decay four times to the encoder."""
    student, other = plain(seed=0), plain(seed=1)
    teacher = make_teacher(other)
    before = [p.clone() for p in teacher.parameters()]
    update_teacher(teacher, student, decay, step)
    for new, old, target in zip(teacher.parameters(), before, student.parameters(), strict=True):
        torch.testing.assert_close(new, effective * old + (1 - effective) * target)


def test_the_student_is_untouched_and_takes_all_gradient():
    student = plain(deep_supervision=False)
    teacher = make_teacher(student)
    before = [p.clone() for p in student.parameters()]
    (student(images()) - teacher(images()).detach() + 1).square().mean().backward()
    update_teacher(teacher, student, 0.9, 10)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), before, strict=True))
    assert all(p.grad is None for p in teacher.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())

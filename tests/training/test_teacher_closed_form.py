"""After k training steps the teacher is the closed form of the moving average of the students it has followed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nnunetv2_semisup.methods import methods, trainer_class
from nnunetv2_semisup.regularizers.teacher import EMATeacherSettings
from tests.training.test_support import UNSURE

STEPS = 6
DECAY = 0.7
"""Reached by the third step, since the first ones follow faster: 1/2, 2/3, 0.7, ..."""
FULL = {
    "training": {"num_epochs": 2, "num_iterations_per_epoch": STEPS, "num_val_iterations_per_epoch": 1, "seed": 3},
    "schedule": {"warmup": 0.0, "ramp": 0.0},
    "teacher": {"decay": DECAY},
}


def with_average() -> list[str]:
    """The trainers whose teacher is a moving average."""
    fields = {name: trainer_class(name).settings_model().model_fields for name in sorted(methods().values())}
    return [
        name for name, own in fields.items() if "teacher" in own and own["teacher"].annotation is EMATeacherSettings
    ]


def parameters(network: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def test_there_are_such_trainers():
    assert {"nnUNetTrainerMeanTeacher", "nnUNetTrainerUAMT", "nnUNetTrainerFixMatch"} <= set(with_average())


@pytest.mark.parametrize("name", with_average())
def test_the_teacher_is_the_sum_over_all_students(in_toy, name):
    trainer = in_toy.trainer(name, FULL | UNSURE.get(name, {}), plans_name=f"closed_{name}")
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    students = [parameters(trainer.network)]
    for _ in range(STEPS):
        trainer.train_step(next(trainer.dataloader_train))
        students.append(parameters(trainer.network))
    decays = [min(DECAY, 1 - 1 / (step + 1)) for step in range(1, STEPS + 1)]
    # The copy at the start counts in full, the student of step i with 1 - d_i; each step after fades what was there.
    weights = torch.tensor([1.0, *(1 - decay for decay in decays)], dtype=torch.float64)
    for step, decay in enumerate(decays, start=1):
        weights[:step] *= decay
    assert float(weights.sum()) == pytest.approx(1)
    assert not all(torch.equal(a, b) for a, b in zip(students[0], students[-1], strict=True))
    for number, teacher in enumerate(trainer.teacher.parameters()):
        history = torch.stack([student[number].double() for student in students])
        expected = torch.tensordot(weights, history, dims=1)
        torch.testing.assert_close(teacher.double(), expected, rtol=1e-5, atol=1e-6)

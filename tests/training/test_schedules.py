"""Phases are fractions of the training; short trainings have every phase."""

import math

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from nnunetv2_semisup.regularizers.phases import phase_ends
from nnunetv2_semisup.training.schedules import LearningRateWarmup, ramp_factor

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("num_epochs", "warmup", "ramp", "expected"),
    [
        (1000, 0.1, 0.2, (100, 300)),
        (60, 0.1, 0.2, (6, 18)),
        (3, 0.1, 0.2, (1, 2)),
        (3, 0.9, 0.1, (1, 2)),
        (3, 0.0, 0.0, (0, 0)),
        (2, 0.1, 0.2, (1, 1)),
        (1, 0.1, 0.2, (0, 0)),
        (10, 0.0, 0.5, (0, 5)),
    ],
)
def test_phases(num_epochs, warmup, ramp, expected):
    assert phase_ends(num_epochs, warmup, ramp) == expected


@pytest.mark.parametrize("num_epochs", range(2, 40))
@pytest.mark.parametrize(("warmup", "ramp"), [(0.1, 0.2), (0.5, 0.5), (1.0, 0.0), (0.3, 1.0)])
def test_the_last_epoch_has_unlabelled_terms(num_epochs, warmup, ramp):
    factors = [ramp_factor(epoch, num_epochs, warmup, ramp) for epoch in range(num_epochs)]
    assert factors[0] == 0 or warmup == 0
    assert factors[-1] > 0
    assert factors == sorted(factors)
    assert max(factors) <= 1


def test_ramp_is_the_gaussian_of_laine_and_aila():
    factor = ramp_factor(150, 1000, warmup=0.1, ramp=0.2)
    assert factor == pytest.approx(math.exp(-5 * (1 - 50.5 / 200) ** 2))
    assert ramp_factor(99, 1000, 0.1, 0.2) == 0
    assert ramp_factor(300, 1000, 0.1, 0.2) == 1


def test_learning_rate_warmup_joins_the_stock_schedule():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.01)
    stock = PolyLRScheduler(optimizer, 0.01, 10)
    rates = {}
    for epoch in range(5):
        stock.step(epoch)
        rates[epoch] = optimizer.param_groups[0]["lr"]
    schedule = LearningRateWarmup(stock, optimizer, warmup_epochs=3)
    for epoch, factor in enumerate([0.25, 0.5, 0.75, 1.0, 1.0]):
        schedule.step(epoch)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rates[epoch] * factor)

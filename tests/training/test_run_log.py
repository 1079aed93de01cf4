"""Means over an epoch."""

import math

import pytest
import torch

from nnunetv2_semisup.training.run_log import EpochMeans

pytestmark = pytest.mark.fast


def test_what_is_unknown_in_a_step_does_not_count():
    means = EpochMeans()
    for value in (1.0, math.nan, 3.0):
        means.add("term", torch.tensor(value))
        means.add_known("sign", torch.tensor(value))
        means.add_known("never", torch.tensor(math.nan))
    found = means.take()
    assert math.isnan(found["term"])
    assert found["sign"] == 2
    assert math.isnan(found["never"])
    assert means.take() == {}

"""One kind of term after the other."""

import pytest

from nnunetv2_semisup.regularizers.phases import phase_ends, switch_epoch

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("switch", [0.0, 0.333, 0.9, 1.0])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_every_training_of_three_epochs_or_more_has_both_phases(warmup, switch):
    for epochs in range(3, 60):
        start, _ = phase_ends(epochs, warmup, 0.0)
        at = switch_epoch(epochs, warmup, switch)
        if epochs - start < 2:
            continue
        assert start < at < epochs
    assert switch_epoch(1000, warmup, switch) == min(max(round(switch * 1000), round(warmup * 1000) + 1), 999)

"""Which setting goes to which method."""

import pytest

from nnunetv2_semisup.evaluation.benchmark.settings import assignments, settings_of
from tests.evaluation.benchmark.asked import benchmark_in

pytestmark = pytest.mark.fast


def test_a_setting_goes_to_every_method_that_has_it(tmp_path):
    benchmark = benchmark_in(tmp_path, settings=("training.num_epochs=7", "mi.weight=0.5", "schedule.ramp=0.25"))
    given = {run.name: assignments(benchmark.request, run) for run in benchmark.runs}
    own = ("training.seed=0", "data.split=labeled2_seed0")
    assert given == {
        "labeledonly-2_seed0_fold0": ("training.num_epochs=7", *own),
        "mireg-2_seed0_fold0": ("training.num_epochs=7", "mi.weight=0.5", "schedule.ramp=0.25", *own),
        "entropymin-2_seed0_fold0": ("training.num_epochs=7", "schedule.ramp=0.25", *own),
        "labeledonly-all_seed0_fold0": ("training.num_epochs=7", "training.seed=0"),
    }
    settings = settings_of(benchmark.request, benchmark.runs[1])
    assert (settings.training.num_epochs, settings.training.seed, settings.mi.weight) == (7, 0, 0.5)
    assert settings.data.split == "labeled2_seed0"

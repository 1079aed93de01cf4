"""A run that nnUNetv2_train itself refuses; runs that it finishes are in tests/cli."""

import pytest

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.benchmark.folder import fold_folder, read_benchmark, save_benchmark
from nnunetv2_semisup.evaluation.benchmark.submission import TrainingJob
from tests.evaluation.benchmark.asked import benchmark_in


def test_why_it_failed_is_noted_in_one_line_and_its_job_fails_as_well(in_toy, tmp_path):
    benchmark = benchmark_in(tmp_path / "missing_plans", methods=("labeledonly",), name="missing")
    save_benchmark(benchmark)
    run = benchmark.runs[0]
    with pytest.raises(SemiSupervisedError, match=rf"nnUNetv2_train failed: .*{run.plans}\.json"):
        TrainingJob(benchmark.folder, run.name, "cpu")()
    reason = str(read_benchmark(benchmark.folder).failure(run))
    assert run.plans in reason
    assert "\n" not in reason
    assert not fold_folder(run).exists()

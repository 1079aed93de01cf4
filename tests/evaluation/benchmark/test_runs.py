"""Which runs there are, in which order, under which names."""

from pathlib import Path

import pytest

from nnunetv2_semisup.evaluation.benchmark.runs import ALL, runs_of, split_name
from nnunetv2_semisup.methods import methods
from tests.evaluation.benchmark.asked import asked
from tests.workspace import DATASET

pytestmark = pytest.mark.fast


def names(**changes):
    return [run.name for run in runs_of(asked(**changes))]


def test_both_baselines_always_take_part_and_pairs_are_complete_early():
    assert names(methods=("mireg",), labeled=(2, 3), seeds=(0, 7), folds=(0, 1)) == [
        f"{method}-{count}_seed{seed}_fold{fold}"
        for seed in (0, 7)
        for fold in (0, 1)
        for method, count in (
            ("labeledonly", 2), ("mireg", 2), ("labeledonly", 3), ("mireg", 3), ("labeledonly", "all"),
        )
    ]  # fmt: skip


def test_the_baseline_may_be_named_and_is_trained_once():
    assert names(methods=("labeledonly", "mireg")) == names(methods=("mireg",))


def test_all_labels_train_the_methods_too():
    assert names(methods=("mireg",), labeled=(2, ALL)) == [
        "labeledonly-2_seed0_fold0", "mireg-2_seed0_fold0", "labeledonly-all_seed0_fold0", "mireg-all_seed0_fold0",
    ]  # fmt: skip


def test_a_run_is_where_nnunet_will_leave_it():
    run = next(run for run in runs_of(asked(name="my bench__1", seeds=(3,))) if run.method == "mireg")
    assert run.plans == "nnUNetPlans_my-bench-1_mireg-2_seed3"
    assert run.results == Path(DATASET) / f"nnUNetTrainerMIReg__{run.plans}__3d_fullres" / "fold_0"
    assert run.split == "labeled2_seed3"


def test_no_two_runs_share_name_plans_or_results():
    runs = list(runs_of(asked(methods=tuple(methods()), labeled=(1, 2, ALL), seeds=(0, 1, 2), folds=(0, 1))))
    assert len({run.name for run in runs}) == len(runs)
    assert len({run.results for run in runs}) == len(runs)
    assert len({(run.plans, run.fold) for run in runs}) == len(runs)


def test_with_first_all_seeds_share_a_split():
    assert split_name(4, True, 0) == split_name(4, True, 1)
    assert split_name(4, False, 0) != split_name(4, False, 1)

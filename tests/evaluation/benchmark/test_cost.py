"""The estimate against what a training says that it cost."""

import pytest

from nnunetv2_semisup.evaluation.benchmark.cost import STOCK_EPOCHS, STOCK_ITERATIONS, cost_of
from nnunetv2_semisup.evaluation.benchmark.runs import BASELINE, runs_of
from nnunetv2_semisup.evaluation.benchmark.settings import learns_to_segment, settings_of
from nnunetv2_semisup.methods import methods
from tests.evaluation.benchmark.asked import asked

LENGTH = ("training.num_epochs=10", "training.num_iterations_per_epoch=3", "training.num_val_iterations_per_epoch=1")
BATCH = 2
"""Of the toy plans."""


def costs(**changes):
    request = asked(**({"settings": LENGTH} | changes))
    return {f"{run.method}-{run.labeled}": cost_of(request, run) for run in runs_of(request)}


@pytest.mark.fast
def test_the_baseline_costs_what_stock_costs(in_toy):
    found = costs()
    for name in ("labeledonly-2", "labeledonly-all"):
        assert (found[name].relative, found[name].samples, found[name].epochs) == (1, BATCH * 30, 10)


@pytest.mark.fast
def test_without_a_length_it_is_nnunets(in_toy):
    assert costs(settings=())["labeledonly-2"].samples == BATCH * STOCK_EPOCHS * STOCK_ITERATIONS


@pytest.mark.fast
@pytest.mark.parametrize(
    ("settings", "unlabeled"),
    [
        # Per unlabelled step: student and teacher see each case once, or the student sees one case twice.
        (("schedule.warmup=0",), 30 * 2 * BATCH),
        (("schedule.warmup=0.5",), 15 * 2 * BATCH),
        (("schedule.warmup=0", "output.form=own_view"), 30 * BATCH),
        (("schedule.warmup=0", "data.batch_size=5"), 30 * 2 * 5),
        (("schedule.warmup=0", "mi.weight=0", "pseudo_label.cross_entropy=0", "pseudo_label.dice=0"), 0),
    ],
)
def test_unlabeled_samples_come_on_top(in_toy, settings, unlabeled):
    cost = costs(methods=("mireg",), settings=(*LENGTH, *settings))["mireg-2"]
    assert cost.samples == BATCH * 30 + unlabeled
    assert cost.relative == pytest.approx(1 + unlabeled / (BATCH * 30))


@pytest.mark.parametrize("method", [method for method in methods() if method != BASELINE and learns_to_segment(method)])
def test_the_estimate_is_what_a_training_counts(in_toy, method):
    request = asked(methods=(method,), settings=("training.num_epochs=3", "training.num_iterations_per_epoch=1"))
    run = list(runs_of(request))[1]
    section = settings_of(request, run).model_dump()
    section["data"]["split"] = None
    trainer = in_toy.trainer(run.trainer, {"method": method, **section}, plans_name=f"cost_{method}")
    trainer.on_train_start()
    counted = 0
    try:
        for epoch in range(3):
            trainer.current_epoch = epoch
            # Predicts pseudo-labels where a round begins, which is no training step.
            trainer.on_epoch_start()
            trainer.on_train_epoch_start()
            before = trainer.cost.samples
            trainer.train_step(next(trainer.dataloader_train))
            counted += trainer.cost.samples - before
    finally:
        trainer.on_train_end()
    assert counted == cost_of(request, run).samples

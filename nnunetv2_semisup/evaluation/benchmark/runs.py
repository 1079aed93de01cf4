"""What a benchmark trains, as plain data: one run for every method, label count, fold and seed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_semisup.methods import methods

BASELINE = "labeledonly"
"""Always takes part, on the labelled cases of the others and on all of them."""
ALL = "all"
"""What stands for the label count where every training case is labelled."""


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    name: str
    """Of the benchmark's folder; part of the plans' names, so that benchmarks do not meet in nnUNet_results."""
    dataset: str
    """DatasetXXX_NAME"""
    configuration: str
    plans: str
    methods: tuple[str, ...]
    """METHOD names; the baseline need not be among them."""
    labeled: tuple[int | str, ...]
    """Label counts: numbers, or ALL."""
    first: bool
    """Labelled are the first cases by name; else a draw of the run's seed."""
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    """Texts KEY=VALUE. Each goes to every method that has the setting."""


@dataclass(frozen=True)
class Run:
    """One training."""

    method: str
    labeled: int | str
    """How many cases are labelled, or ALL."""
    seed: int
    fold: int
    trainer: str
    split: str | None
    """Name of the split file; None: nnU-Net's own split, every training case is labelled."""
    plans: str
    """Name of the plans with the run's settings."""
    results: Path
    """The fold's folder, relative to nnUNet_results."""

    @property
    def name(self) -> str:
        """Unique in a benchmark.

        >>> next(runs_of(Request("b", "Dataset001_X", "2d", "nnUNetPlans", (), (4,), True, (0,), (7,), ()))).name
        'labeledonly-4_seed7_fold0'
        """
        return f"{self.method}-{self.labeled}_seed{self.seed}_fold{self.fold}"


def runs_of(request: Request) -> Iterator[Run]:
    """All runs in the order in which they are trained.

    Seeds are the outermost loop, so that a benchmark that was stopped has whole pairs to compare; the baseline comes
    first within each label count, and the one with all labels last within each fold.
    """
    counts = [*(count for count in request.labeled if count != ALL), ALL]
    for seed in request.seeds:
        for fold in request.folds:
            for count in counts:
                others = [method for method in request.methods if method != BASELINE and count in request.labeled]
                for method in (BASELINE, *others):
                    yield _run(request, method, count, seed, fold)


def split_name(count: int | str, first: bool, seed: int) -> str | None:
    """Of the split file of a label count.

    >>> split_name(4, True, 7), split_name(4, False, 7), split_name(ALL, False, 7)
    ('labeled4_first', 'labeled4_seed7', None)
    """
    if count == ALL:
        return None
    return f"labeled{count}_first" if first else f"labeled{count}_seed{seed}"


def _run(request: Request, method: str, count: int | str, seed: int, fold: int) -> Run:
    trainer = methods()[method]
    # nnU-Net parts TRAINER__PLANS__CONFIGURATION at the double underscores.
    label = re.sub(r"[^A-Za-z0-9.]+", "-", request.name)
    plans = f"{request.plans}_{label}_{method}-{count}_seed{seed}"
    return Run(
        method=method,
        labeled=count,
        seed=seed,
        fold=fold,
        trainer=trainer,
        split=split_name(count, request.first, seed),
        plans=plans,
        results=Path(request.dataset) / f"{trainer}__{plans}__{request.configuration}" / f"fold_{fold}",
    )

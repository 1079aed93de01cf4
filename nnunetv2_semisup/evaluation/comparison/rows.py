"""Runs that differ in seed and fold only are one row of the table."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nnunetv2_semisup.evaluation.comparison.comparability import Reference, incomparable_keys
from nnunetv2_semisup.evaluation.comparison.runs import ALL, Refused, Run
from nnunetv2_semisup.evaluation.comparison.seeds import by_seed

Role = Literal["baseline", "method", "all labels"]
_NOT_THE_METHOD = ("training.seed", "training.save_every", "training.num_val_iterations_per_epoch", "data.split")


@dataclass(frozen=True)
class Row:
    """One method with one number of labels: its runs by seed, one a fold."""

    method: str
    labels: int | str
    """How many cases are labelled, or ALL. For segmentations from elsewhere: those of the baseline beside them."""
    seeds: Mapping[str, tuple[Run, ...]]
    different: tuple[str, ...]
    """Keys in which --allow-different lets it differ from LabeledOnly."""

    @property
    def role(self) -> Role:
        """What the row is there for: LabeledOnly on the few labels, on all of them, or anything else."""
        first = self.runs[0]
        if not first.is_baseline or self.different:
            return "method"
        return "all labels" if self.labels == ALL else "baseline"

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        return [run for runs in self.seeds.values() for run in runs]

    @property
    def title(self) -> str:
        """Unique in the table."""
        if self.is_external:
            return self.method
        return f"{self.method}, {_count(self.labels)}"

    @property
    def unlabeled(self) -> tuple[int, ...]:
        """How many unlabelled cases its trainings learned from: the different numbers, sorted."""
        return tuple(sorted({len(run.training.unlabeled) for run in self.runs if run.training is not None}))

    @property
    def is_external(self) -> bool:
        """Whether the segmentations come from elsewhere."""
        return self.runs[0].training is None


def make_rows(runs: Sequence[Run], reference: Reference) -> tuple[list[Row], list[Refused]]:
    """The rows, baseline first within each number of labels, and the runs that belong to none, with the reason.

    Raises SemiSupervisedError for two runs of the same row, seed and fold, unless a benchmark or a larger folder holds
    the same training once more.
    """
    groups: dict[tuple[object, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[_key(run, reference)].append(run)
    rows, refused = [], []
    for group in groups.values():
        seeds: dict[str, tuple[Run, ...]] = {}
        found, repeated = by_seed(group, reference)
        refused += repeated
        for seed, folds in found.items():
            covered = len({run.training.val for run in folds if run.training is not None})
            if folds[0].training is not None and covered < len(reference.parts):
                reason = f"seed {seed} has {covered} of {len(reference.parts)} folds; all are compared together"
                refused += [Refused(run.name, reason) for run in folds]
            else:
                seeds[seed] = tuple(folds)
        if seeds:
            different = tuple(incomparable_keys(group[0], reference))
            rows.append(Row(group[0].method, reference.labels_of(group[0]), seeds, different))
    rows, alone = _with_partner(rows)
    order = {"baseline": 0, "method": 1, "all labels": 2}
    rows.sort(key=lambda row: (row.role == "all labels", row.labels == ALL, str(row.labels).zfill(9), order[row.role]))
    return _named_apart(rows), refused + alone


def without(rows: Sequence[Row], faults: Mapping[Path, str]) -> tuple[list[Row], list[Refused]]:
    """The rows without the seeds that hold a run whose folder of segmentations has a fault, and these runs."""
    kept, refused = [], []
    for row in rows:
        faulty = {seed for seed, runs in row.seeds.items() if any(run.predictions in faults for run in runs)}
        kept += _kept(row, [seed for seed in row.seeds if seed not in faulty])
        for seed in sorted(faulty):
            others = f"another fold of seed {seed} is refused; all are compared together"
            refused += [Refused(run.name, faults.get(run.predictions, others)) for run in row.seeds[seed]]
    kept, alone = _with_partner(kept)
    return kept, refused + alone


def _with_partner(rows: Sequence[Row]) -> tuple[list[Row], list[Refused]]:
    """The rows without the seeds that LabeledOnly lacks, and their runs: no difference can be taken of them."""
    baselines: dict[int | str, set[str]] = defaultdict(set)
    for row in rows:
        if row.role != "method":
            baselines[row.labels] |= row.seeds.keys()
    kept, refused = [], []
    for row in rows:
        theirs = baselines[row.labels]
        alone = {seed for seed in row.seeds if not theirs or (seed and seed not in theirs)}
        kept += _kept(row, [seed for seed in row.seeds if seed not in alone])
        for seed in sorted(alone):
            reason = f"there is no run of LabeledOnly with {_count(row.labels)}{_words(seed)} to compare it with"
            refused += [Refused(run.name, f"{reason}; train one") for run in row.seeds[seed]]
    return kept, refused


def _words(seed: str) -> str:
    """How a row's seed is called in a message."""
    if not seed:
        return ""
    return ", without a seed and on its labelled cases," if seed.startswith("#") else f" and seed {seed}"


def _count(labels: int | str) -> str:
    return f"{labels} label{'' if labels == 1 else 's'}"


def _kept(row: Row, seeds: Collection[str]) -> list[Row]:
    """The row with these of its seeds; none where it has none of them."""
    return [replace(row, seeds={seed: row.seeds[seed] for seed in seeds})] if seeds else []


def _key(run: Run, reference: Reference) -> tuple[object, ...]:
    """What the runs of a row have in common."""
    if run.training is None:
        return (run.method,)
    settings = {key: value for key, value in run.training.settings.items() if key not in _NOT_THE_METHOD}
    plan = {key: run.training.plan[key] for key in incomparable_keys(run, reference)}
    return (run.training.trainer, run.training.labels, json.dumps([settings, plan], sort_keys=True, default=str))


def _named_apart(rows: list[Row]) -> list[Row]:
    """Rows of one trainer and label count get the settings that tell them apart."""
    titles: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        titles[row.title].append(row)
    named = {}
    for same in titles.values():
        values = [row_settings(row) for row in same]
        keys = sorted({key for its in values for key in its})
        differing = [key for key in keys if len({str(its.get(key)) for its in values}) > 1]
        for row, its in zip(same, values, strict=True):
            shown = ", ".join(f"{key}={its[key]}" for key in differing if key in its)
            named[id(row)] = replace(row, method=f"{row.method} ({shown})") if len(same) > 1 and shown else row
    return [named[id(row)] for row in rows]


def row_settings(row: Row) -> dict[str, object]:
    """What a row was trained with, seeds and splits left out; nothing of segmentations from elsewhere."""
    training = row.runs[0].training
    if training is None:
        return {}
    settings = {key: value for key, value in training.settings.items() if key not in _NOT_THE_METHOD}
    return settings | {key: training.plan[key] for key in row.different}

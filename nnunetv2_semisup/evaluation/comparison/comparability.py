"""Which runs may stand in one table. Everything is measured against LabeledOnly's runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.comparison.runs import ALL, BASELINE, Refused, Run, Training
from nnunetv2_semisup.training.fold_files import FINAL


@dataclass(frozen=True)
class Reference:
    """What all runs must have in common, taken from LabeledOnly's runs."""

    training: Training
    """Of the first of them."""
    parts: tuple[tuple[str, ...], ...]
    """The validation cases of each fold."""
    labeled: dict[tuple[int | str, int | None, tuple[str, ...]], list[tuple[str, ...]]]
    """Labelled cases by label count, seed and validation cases. Without a seed there may be several trainings."""

    @property
    def cases(self) -> tuple[str, ...]:
        """The validation cases of all folds, sorted."""
        return tuple(sorted(case for part in self.parts for case in part))

    def counts(self) -> list[int | str]:
        """The label counts for which there is a baseline: numbers, then ALL."""
        found = {count for count, _, _ in self.labeled}
        return [*sorted(count for count in found if isinstance(count, int)), *([ALL] if ALL in found else [])]

    def labels_of(self, run: Run) -> int | str:
        """How many cases are labelled, or ALL; of segmentations from elsewhere those of the baseline beside them."""
        return self.counts()[0] if run.training is None else run.training.labels


def reference_of(runs: Sequence[Run]) -> Reference:
    """From LabeledOnly's runs among `runs`.

    Raises SemiSupervisedError where there is none, or where two of their folds share a validation case.
    """
    baselines = [(run.seed, run.training) for run in runs if run.is_baseline and run.training is not None]
    if not baselines:
        raise SemiSupervisedError(
            f"none of the runs is one of {BASELINE}, which every difference is taken to; name one as well"
        )
    # One that is refused for itself is no measure of the others, nor is a short one among them.
    baselines = [(seed, training) for seed, training in baselines if _own_leak(training) is None] or baselines
    of_length = Counter(training.labeled_samples for _, training in baselines)
    first = min(
        (training for _, training in baselines),
        key=lambda training: (
            training.initial_weights is not None,
            -of_length[training.labeled_samples],
            training.labels == ALL,
            training.fold,
        ),
    )
    baselines = [(seed, training) for seed, training in baselines if training.dataset == first.dataset]
    parts = tuple(sorted({training.val for _, training in baselines}))
    shared = sorted(case for case, n in Counter(case for part in parts for case in part).items() if n > 1)
    if shared:
        raise SemiSupervisedError(
            f"the runs of {BASELINE} validate on different cases that overlap, e.g. in {shared[0]}; name runs of one "
            "split"
        )
    labeled: dict[tuple[int | str, int | None, tuple[str, ...]], list[tuple[str, ...]]] = defaultdict(list)
    for seed, training in baselines:
        its = labeled[training.labels, seed, training.val]
        if seed is None or not its:
            its.append(training.labeled)
    return Reference(first, parts, dict(labeled))


def incomparable_keys(run: Run, reference: Reference) -> list[str]:
    """Keys of --allow-different in which a training is not like the reference, sorted."""
    if run.training is None:
        return []
    ours, theirs = run.training.plan, reference.training.plan
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))


def why_refused(run: Run, reference: Reference, allowed: Collection[str]) -> str | None:
    """The first reason why a run is not comparable, in one line; None where it is."""
    if run.checkpoint not in (None, FINAL):
        return (
            f"its segmentations were made with {run.checkpoint}, which was selected by validation; the others' with "
            "the last checkpoint"
        )
    if run.training is None:
        return _why_external_refused(reference)
    reasons = (
        _other_data(run.training, reference),
        _own_leak(run.training),
        _inherited_leak(run.training),
        _other_labels(run, reference),
        _other_length(run.training, reference.training),
        _other_plan(run, reference, allowed),
    )
    return next((reason for reason in reasons if reason), None)


def _why_external_refused(reference: Reference) -> str | None:
    counts = [count for count in reference.counts() if count != ALL]
    if len(counts) > 1:
        return (
            f"there are runs with {' and '.join(map(str, counts))} labelled cases, and nothing says which it belongs "
            "beside; compare it with runs of one number"
        )
    return None


def _other_data(training: Training, reference: Reference) -> str | None:
    if training.dataset != reference.training.dataset:
        return f"it is a run on {training.dataset}, the others are on {reference.training.dataset}"
    if training.val not in reference.parts:
        nearest = max(reference.parts, key=lambda part: len(set(part) & set(training.val)))
        differing = sorted(set(nearest) ^ set(training.val))
        return f"it validates on other cases than LabeledOnly: {len(differing)} differ, e.g. {differing[0]}"
    return None


def _own_leak(training: Training) -> str | None:
    for kind, cases in (("unlabelled", training.unlabeled), ("labelled", training.labeled)):
        if both := sorted(set(cases) & set(training.val)):
            return f"its {kind} cases include {len(both)} of its validation cases, e.g. {both[0]}"
    return None


def _inherited_leak(training: Training) -> str | None:
    """What the weights that it began with have seen, of the same dataset, and it may not."""
    for origin in _origins(training):
        if origin is None or origin["dataset"] != training.dataset:
            continue
        begun = f"it began with weights of {origin['trainer']}, whose"
        for kind, cases in origin["cases"].items():
            if kind != "val" and (both := sorted(set(cases) & set(training.val))):
                return f"{begun} {kind} cases include {len(both)} of its validation cases, e.g. {both[0]}"
        if hidden := sorted(set(origin["cases"]["labeled"]) - set(training.labeled)):
            return f"{begun} labelled cases include {len(hidden)} that it has no labels of, e.g. {hidden[0]}"
    return None


def unknown(run: Run) -> list[str]:
    """What a training has not recorded and was not checked, a line each."""
    if run.training is None:
        return []
    lines = []
    if None in _origins(run.training):
        lines.append(
            f"{run.name}: it began with the weights of another training, which does not say what it saw; whether "
            "validation cases or hidden labels were among it was not checked"
        )
    if run.epoch is None:
        lines.append(
            f"{run.name}: its validation does not say after how many epochs it was made; if the training went "
            "on since, these are segmentations of the shorter one"
        )
    return lines


def _origins(training: Training) -> Iterator[Mapping[str, Any] | None]:
    """Where the weights that a training began with come from, and those that these began with; None: not recorded."""
    weights = training.initial_weights
    while weights is not None:
        origin = weights["origin"]
        yield origin
        weights = None if origin is None else origin["initial_weights"]


def _other_labels(run: Run, reference: Reference) -> str | None:
    assert run.training is not None
    labels = run.training.labels
    if labels not in reference.counts():
        count = "all cases" if labels == ALL else f"{labels} cases"
        return f"there is no run of LabeledOnly with {count} labelled to compare it with"
    theirs = reference.labeled.get((labels, run.seed, run.training.val))
    if theirs and run.training.labeled not in theirs:
        differing = sorted(set(theirs[0]) ^ set(run.training.labeled))
        same = "without a seed" if run.seed is None else "with the same seed"
        return f"its labelled cases are not those of LabeledOnly {same}: e.g. {differing[0]} is in one only"
    return None


def _other_length(training: Training, reference: Training) -> str | None:
    if training.labeled_samples == reference.labeled_samples:
        return None
    return f"it saw {training.labeled_samples:,} labelled samples, LabeledOnly {reference.labeled_samples:,}"


def _other_plan(run: Run, reference: Reference, allowed: Collection[str]) -> str | None:
    assert run.training is not None
    for key in incomparable_keys(run, reference):
        if key not in allowed:
            ours, theirs = (_short(plan.get(key)) for plan in (run.training.plan, reference.training.plan))
            return f"its {key} is {ours}, LabeledOnly's {theirs}; to compare all the same: --allow-different {key}"
    return None


def check_allowed(allowed: Iterable[str], reference: Reference) -> None:
    """Raises SemiSupervisedError for a key that --allow-different does not know."""
    for key in allowed:
        if key not in reference.training.plan:
            raise SemiSupervisedError(
                f"--allow-different {key}: known are {', '.join(sorted(reference.training.plan))}; cases, samples and "
                "checkpoints must be the same"
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def first_missing(cases: Iterable[str], run: Run, ending: str) -> Refused | None:
    """A refusal where a run's folder lacks a segmentation of one of `cases`."""
    missing = [case for case in cases if not (run.predictions / f"{case}{ending}").is_file()]
    if not missing:
        return None
    return Refused(run.name, f"{run.predictions} lacks {len(missing)} of the segmentations, e.g. {missing[0]}{ending}")

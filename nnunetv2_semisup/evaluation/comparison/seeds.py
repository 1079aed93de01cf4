"""The runs of a row by seed: which of two rows belong together, and which are the same training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.comparison.comparability import Reference
from nnunetv2_semisup.evaluation.comparison.runs import Refused, Run


def by_seed(group: Sequence[Run], reference: Reference) -> tuple[dict[str, list[Run]], list[Refused]]:
    """Runs by seed, and those that are there twice.

    A training without a seed has the number of LabeledOnly's on the same labelled cases, in order, apart for each fold.

    Raises SemiSupervisedError for two runs of the same seed and fold, unless a benchmark or a larger folder holds the
    same training once more.
    """
    found: dict[str, list[Run]] = defaultdict(list)
    repeated: list[Refused] = []
    taken: dict[tuple[str, object], Run] = {}
    free = {part: [*cases] for (labels, seed, part), cases in reference.labeled.items()
            if seed is None and labels == reference.labels_of(group[0])}  # fmt: skip
    for run in group:
        part = None if run.training is None else run.training.val
        if run.seed is None and run.training is not None:
            seed = f"#{_number(run.training.labeled, free.setdefault(run.training.val, []))}"
        else:
            seed = "" if run.seed is None else str(run.seed)
        if (seed, part) in taken:
            other = taken[seed, part]
            if _is_repeated(run, other):
                repeated.append(Refused(run.name, f"it has the settings, seed and cases of {other.name}, which counts"))
                continue
            raise SemiSupervisedError(
                f"two runs have the same name: {other.predictions} and {run.predictions} are both {run.method}"
                f"{f' with seed {seed}' if seed else ''}; leave one out, or rename its folder"
            )
        taken[seed, part] = run
        found[seed].append(run)
    return found, repeated


def _number(labeled: tuple[str, ...], free: list[tuple[str, ...]]) -> int:
    """Place, from 1, of these labelled cases in `free`, where it is taken; else one more than there are."""
    taken: tuple[str, ...] = ()
    if labeled not in free:
        free.append(labeled)
    place = free.index(labeled)
    free[place] = taken
    return place + 1


def _is_repeated(run: Run, other: Run) -> bool:
    """Whether two runs of the same row, seed and fold are the same training, e.g. the baselines of two benchmarks.

    Who has named both himself is asked which one is meant.
    """
    ours, theirs = run.training, other.training
    if ours is None or theirs is None or (run.named and other.named):
        return False
    return (ours.labeled, ours.unlabeled) == (theirs.labeled, theirs.unlabeled)

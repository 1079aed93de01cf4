"""What a reader must know beside the table: what is no reason to refuse a run, and still weakens what it says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from nnunetv2_semisup.evaluation.comparison.rows import Row
from nnunetv2_semisup.evaluation.comparison.statistics import Result

FEW_SEEDS = 3
FEW_CASES = 10


def notes_on(results: Sequence[Result], cases: int) -> list[str]:
    """A line on each thing that makes the table say less than it seems to."""
    lines = _other_images([result.row for result in results])
    if few := [f"{result.row.title} ({_seeds(result)})" for result in results if _seeds(result) < FEW_SEEDS]:
        lines.append(
            f"Fewer than {FEW_SEEDS} seeds, or pairs of seeds with LabeledOnly: {'; '.join(few)}. With one an interval "
            "speaks of the cases alone: another training of the same method may lie outside it."
        )
    if cases < FEW_CASES:
        lines.append(f"Fewer than {FEW_CASES} cases ({cases}): intervals and tests say little.")
    if any(result.row.is_external for result in results):
        lines.append(
            "Segmentations from elsewhere: on which cases and for how many samples their models were trained, and how "
            "their checkpoints were chosen, is not recorded and was not checked."
        )
    return lines


def _seeds(result: Result) -> int:
    """What stands behind a row's interval: pairs of seeds; of a baseline its seeds."""
    return len(result.row.seeds) if result.difference is None else result.difference.pairs


def _other_images(rows: Sequence[Row]) -> list[str]:
    """A line for each number of labels whose trainings did not all learn from the same images, labelled or not.

    The two are taken together, since a seed may draw which training cases keep their label.
    """
    images: dict[tuple[int | str, tuple[str, ...]], dict[str, set[str]]] = defaultdict(dict)
    for row in rows:
        for seed, run in ((seed, run) for seed, runs in row.seeds.items() for run in runs):
            if run.training is not None and run.training.unlabeled:
                its = {*run.training.labeled, *run.training.unlabeled}
                images[row.labels, run.training.val][f"{row.title}, seed {seed}"] = its
    lines: dict[int | str, str] = {}
    for (labels, _), by_run in images.items():
        most = max(by_run, key=lambda name: len(by_run[name]))
        for name, its in by_run.items():
            if missing := sorted(by_run[most] - its):
                lines.setdefault(labels, f"Not the same images: {most} has learned from {missing[0]} "
                                         f"({len(missing)} such cases), {name} has not. More images may help by "
                                         "themselves; train both on the same.")  # fmt: skip
    return list(lines.values())

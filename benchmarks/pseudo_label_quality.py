"""How good the stored pseudo-labels of finished runs are, against the labels that the runs could not see.

    python benchmarks/pseudo_label_quality.py --data FOLDER --work FOLDER --dataset 804 --arms selftraining-4 -o FILE

FOLDER and runs as in benchmarks/quality.py, whose unlabelled cases have labels that nobody trained on. For every round
that is still there: Dice over the unlabelled cases, mean over the classes; the same if only the largest connected
component of each class stayed; how many cases are below 0.7 and 0.5; and the share of the voxels that have a
pseudo-label (`rounds.filter` leaves some without).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import blosc2
import numpy as np
from quality import ARMS, dice, preprocessed_folder, run_folder, runs_parser, set_environment
from table import publish

from nnunetv2_semisup.data.pieces import largest_components
from nnunetv2_semisup.data.pseudo_labels import UNKNOWN, open_labels

CONFIGURATION = "nnUNetPlans_3d_fullres"
"""Folder of the preprocessed cases, with nnU-Net's own name; the small plans share it."""


def case_quality(labels: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """On the voxels with a pseudo-label, mean Dice over the classes of the truth: as stored, of the largest components.

    The third number is the share of these voxels.
    """
    known = labels != UNKNOWN
    pairs = [((truth == value) & known, labels == value) for value in np.unique(truth) if value > 0]
    stored = [dice(true, found) for true, found in pairs]
    largest = [dice(true, largest_components(found)) for true, found in pairs]
    return float(np.nanmean(stored)), float(np.nanmean(largest)), float(known.mean())


def rounds_of(dataset: int, arm: str, seed: int) -> Iterator[dict[str, str]]:
    """A row for each stored round of a run."""
    truths = preprocessed_folder(dataset) / CONFIGURATION
    for folder in sorted((run_folder(dataset, arm, seed) / "pseudo_labels").iterdir()):
        found = []
        for file in sorted(folder.glob("*.b2nd")):
            truth = blosc2.open(urlpath=str(truths / f"{file.stem}_seg.b2nd"), mode="r")
            found.append(case_quality(open_labels(folder, file.stem)[0], truth[0]))
        quality, largest, known = np.array(found).T
        yield {
            "arm": arm,
            "seed": str(seed),
            "round": folder.name.removeprefix("round_"),
            "cases": str(len(quality)),
            "Dice": f"{quality.mean():.3f}",
            "largest pieces": f"{largest.mean():.3f}",
            "median": f"{np.median(quality):.3f}",
            "below 0.7": str((quality < 0.7).sum()),
            "below 0.5": str((quality < 0.5).sum()),
            "voxels": f"{known.mean():.3f}",
        }


def main() -> None:
    parser = runs_parser(__doc__, ARMS, (0,))
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    set_environment(args.data, args.work)
    publish(
        [row for arm in args.arms for seed in args.seeds for row in rounds_of(args.dataset, arm, seed)], args.output
    )


if __name__ == "__main__":
    main()

"""How far the probabilities of finished runs can be believed: calibration on the validation cases.

    python benchmarks/calibration.py --data FOLDER --work FOLDER RUN ... -device cpu

RUN is a fold's folder of a training by benchmarks/quality.py or benchmarks/mixed_supervision.py with the same --work.
Stock nnU-Net validates it once more and keeps the probabilities. For each foreground class, over all voxels and over
those within 10 mm of the true border, where errors are: the expected calibration error (mean over 15 bins of equal
width of |mean probability - share of truth|, weighted by voxels; Guo et al., ICML 2017), by MONAI. The file has every
bin, which makes the reliability curve (benchmarks/reliability.py); what it has of other runs of the dataset stays.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import mixed_supervision
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from monai.metrics.calibration import calibration_binning
from quality import RESULTS, SMALL, TRAIN_CASES, call, set_environment
from scipy.ndimage import distance_transform_edt
from table import publish

COLUMNS = ("run", "seed", "class", "region", "bin", "sum of probabilities", "voxels of the class", "voxels")
REGIONS = ("all", "border")
BINS = 15
BORDER = 10.0
"""Millimetres."""


@dataclass(frozen=True)
class Bins:
    """Voxels by their probability.

    Attributes:
        probability: its sum in each bin.
        truth: voxels of the class in each bin.
        count: voxels in each bin.
    """

    probability: npt.NDArray[np.float64]
    truth: npt.NDArray[np.float64]
    count: npt.NDArray[np.float64]

    def __add__(self, other: Bins) -> Bins:
        """Of both sets of voxels together."""
        return Bins(self.probability + other.probability, self.truth + other.truth, self.count + other.count)

    @property
    def error(self) -> float:
        """The expected calibration error, in [0, 1]."""
        return float(np.abs(self.probability - self.truth).sum() / self.count.sum())

    @property
    def overconfidence(self) -> float:
        """By how much the probability of what is decided exceeds how often that is true, in [-1, 1].

        The same distances as in the error, but those of a network that is too careful are negative.
        """
        decided = np.where(self.probability > 0.5 * self.count, 1, -1)
        return float(((self.probability - self.truth) * decided).sum() / self.count.sum())


Key = tuple[str, int, int, str]
"""Run, seed, class, region."""


def run_of(fold: Path) -> tuple[int, str, int]:
    """Dataset, name as in the names of the run's files, and seed, from where its training lies.

    A dataset with sparse labels counts as the one that it was made of.
    """
    dataset, plans = fold.parent.parent.name, fold.parent.name.split("__")[1]
    number = next(number for number in TRAIN_CASES if number % 100 == int(dataset[7:10]) % 100)
    arm, seed = plans.removeprefix(f"{SMALL}_").rsplit("_seed", 1)
    mode = next((mode for mode in mixed_supervision.BUDGETS if dataset.endswith(mode.capitalize())), "")
    run = mixed_supervision.run_name(arm, mode) if mode or arm == "dense" else arm
    return number, run, int(seed)


def bins_of(probability: npt.NDArray[np.floating], truth: npt.NDArray[np.bool_]) -> Bins:
    """Of voxels of one class."""
    p, t = (torch.as_tensor(x, dtype=torch.float64).reshape(1, 1, -1) for x in (probability, truth))
    means, shares, counts = (x[0, 0].numpy() for x in calibration_binning(p, t, num_bins=BINS, right=True))
    return Bins(np.nan_to_num(means) * counts, np.nan_to_num(shares) * counts, counts.astype(np.float64))


def near_border(truth: npt.NDArray[np.bool_], spacing: tuple[float, ...]) -> npt.NDArray[np.bool_]:
    """Voxels within BORDER of the nearest voxel of the other kind."""
    inside, outside = (distance_transform_edt(mask, sampling=spacing) for mask in (truth, ~truth))
    return np.asarray(np.maximum(inside, outside) <= BORDER)


def calibration_of(fold: Path, device: str) -> dict[tuple[int, str], Bins]:
    """(class, region) -> bins over all validation cases of a run."""
    trainer, plans, configuration = fold.parent.name.split("__")
    dataset = fold.parent.parent.name
    call(
        "nnUNetv2_train", dataset, configuration, fold.name.removeprefix("fold_"), "-tr", trainer, "-p", plans,
        "-device", device, "--val", "--npz",
    )  # fmt: skip
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    found: dict[tuple[int, str], Bins] = {}
    for case in summary["metric_per_case"]:
        prediction = Path(case["prediction_file"])
        name = prediction.name.removesuffix(".nii.gz")
        probabilities = np.load(prediction.with_name(f"{name}.npz"))["probabilities"]
        image = sitk.ReadImage(case["reference_file"])
        labels, spacing = sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
        for label in range(1, len(probabilities)):
            truth = labels == label
            near = near_border(truth, spacing)
            for region, where in zip(REGIONS, (np.ones_like(truth), near), strict=True):
                bins = bins_of(probabilities[label][where], truth[where])
                found[label, region] = found[label, region] + bins if (label, region) in found else bins
    return found


def csv_name(dataset: int) -> str:
    """Of the file with the bins of all its runs."""
    return f"calibration_{dataset}.csv"


def read(file: Path) -> dict[Key, Bins]:
    """What `write` has written; empty where there is no file."""
    bins: dict[Key, list[list[float]]] = {}
    if file.exists():
        with file.open(newline="") as stream:
            for row in csv.DictReader(stream):
                run, seed, label, region, _, *values = (row[name] for name in COLUMNS)
                bins.setdefault((run, int(seed), int(label), region), []).append([float(value) for value in values])
    return {key: Bins(*np.array(rows).T) for key, rows in bins.items()}


def write(file: Path, found: dict[Key, Bins]) -> None:
    """A row for every bin."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for key, bins in sorted(found.items()):
            columns = zip(bins.probability, bins.truth, bins.count, strict=True)
            for index, (probability, truth, count) in enumerate(columns):
                writer.writerow([*key, index, f"{probability:.2f}", f"{truth:.0f}", f"{count:.0f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data", type=Path, required=True, help="folder of raw nnU-Net datasets")
    parser.add_argument("--work", type=Path, required=True, help="folder for preprocessed data and results")
    parser.add_argument("-device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of the CSV files")
    args = parser.parse_args()
    set_environment(args.data, args.work)
    rows = []
    for fold in args.runs:
        dataset, run, seed = run_of(fold.resolve())
        found = {(run, seed, *key): bins for key, bins in calibration_of(fold.resolve(), args.device).items()}
        file = args.output / csv_name(dataset)
        write(file, read(file) | found)
        rows += [
            {"run": run, "seed": seed, "class": label, "region": region, "ECE": f"{bins.error:.4f}"}
            for (_, _, label, region), bins in found.items()
        ]
    publish(rows, None)


if __name__ == "__main__":
    main()

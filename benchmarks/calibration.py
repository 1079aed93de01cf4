"""How far the probabilities of finished runs can be believed: calibration on the validation cases.

    python benchmarks/calibration.py --data FOLDER --work FOLDER RUN ... -device cpu -o calibration.csv

RUN is a fold's folder of a training by benchmarks/quality.py or benchmarks/mixed_supervision.py with the same --work.
Stock nnU-Net validates it once more and keeps the probabilities. For each foreground class, over all voxels and over
those within 10 mm of the true border, where errors are: the expected calibration error (mean over 15 bins of equal
width of |mean probability - share of truth|, weighted by voxels; Guo et al., ICML 2017), by MONAI. The file has every
bin, which makes the reliability curve.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from monai.metrics.calibration import calibration_binning
from quality import call, set_environment
from scipy.ndimage import distance_transform_edt
from table import publish

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
            for region, where in (("all", np.ones_like(truth)), ("border", near)):
                bins = bins_of(probabilities[label][where], truth[where])
                found[label, region] = found[label, region] + bins if (label, region) in found else bins
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data", type=Path, required=True, help="folder of raw nnU-Net datasets")
    parser.add_argument("--work", type=Path, required=True, help="folder for preprocessed data and results")
    parser.add_argument("-device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, help="CSV file of the bins")
    args = parser.parse_args()
    set_environment(args.data, args.work)
    errors, bins = [], []
    for fold in args.runs:
        run = fold.resolve().parent.name.split("__")[1]
        for (label, region), found in calibration_of(fold.resolve(), args.device).items():
            errors.append({"run": run, "class": label, "region": region, "ECE": f"{found.error:.4f}"})
            columns = zip(found.probability, found.truth, found.count, strict=True)
            bins += [[run, label, region, index, *values] for index, values in enumerate(columns)]
    publish(errors, None)
    if args.output:
        with args.output.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["run", "class", "region", "bin", "sum of probabilities", "voxels of the class", "voxels"])
            writer.writerows([*row[:4], f"{row[4]:.2f}", f"{row[5]:.0f}", f"{row[6]:.0f}"] for row in bins)


if __name__ == "__main__":
    main()

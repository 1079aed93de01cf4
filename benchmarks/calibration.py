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
import json
from pathlib import Path

import mixed_supervision
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from calibration_bins import REGIONS, Bins, csv_name, read, write
from monai.metrics.calibration import calibration_binning
from quality import RESULTS, SMALL, TRAIN_CASES, call, set_environment
from scipy.ndimage import distance_transform_edt
from table import publish

BINS = 15
BORDER = 10.0
"""Millimetres."""


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

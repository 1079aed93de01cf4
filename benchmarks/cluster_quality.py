"""What a pre-training's clusters are like, beside those of a network that has not been trained.

    python benchmarks/cluster_quality.py --data FOLDER --work FOLDER --dataset 804 --arms untrained bim -device cpu

FOLDER as in benchmarks/pretraining.py, whose pre-trainings are used, and run where they are missing.

Of the last epoch's steps: mutual information, balance (marginal entropy as a share of its maximum), share of clusters
in use, agreement of two transformed views of a voxel, correlation of boundaries with edges. Of `nnUNetv2_semisup
clusters` on the validation images, means over cases and sub-heads: share of the voxels whose label is the commonest of
their cluster, and Dice of the foreground with the clusters that are mostly foreground.
"""

from __future__ import annotations

import csv
import os
import shutil
import statistics
import tempfile
from pathlib import Path

from pretraining import ARMS, pretrained
from quality import TRAIN_CASES, call, prepare, runs_parser, set_environment
from table import publish

CLUSTERED = [arm for arm in ARMS if arm not in ("scratch", "infonce", "masked")]
SIGNS = {
    "nats": "nats",
    "balance": "marginal_entropy",
    "in use": "used",
    "agreement": "stability",
    "boundaries": "boundary_correlation",
}


def signs_of(fold: Path) -> dict[str, str]:
    """The signs of life of the last epoch."""
    with (fold / "semisup_log.csv").open(newline="") as stream:
        *_, last = csv.DictReader(stream)
    return {column: f"{float(last[f'sign/{sign}']):.3f}" for column, sign in SIGNS.items()}


def purity_of(fold: Path, images: Path, device: str) -> dict[str, str]:
    """Means over the table that the command writes for these images."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "clusters"
        call(
            "nnUNetv2_semisup", "clusters", "-m", str(fold.parent), "-f", "0", "-i", str(images), "-o", str(target),
            "-device", device,
        )  # fmt: skip
        with (target / "purity.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    means = {name: statistics.mean(float(row[name]) for row in rows) for name in ("purity", "foreground_dice")}
    return {"purity": f"{means['purity']:.4f}", "foreground Dice": f"{means['foreground_dice']:.3f}"}


def validation_images(dataset: int, target: Path) -> None:
    """Copies of the images of the validation cases."""
    folder = next(Path(os.environ["nnUNet_raw"]).glob(f"Dataset{dataset:03d}_*"))
    cases = sorted(file.name.removesuffix(".nii.gz") for file in (folder / "labelsTr").glob("*.nii.gz"))
    for case in cases[TRAIN_CASES[dataset] :]:
        for image in (folder / "imagesTr").glob(f"{case}_*.nii.gz"):
            shutil.copy(image, target)


def main() -> None:
    parser = runs_parser(__doc__, CLUSTERED, (0,))
    parser.add_argument("-device", default="cpu")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    set_environment(args.data, args.work)
    prepare(args.dataset)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        validation_images(args.dataset, Path(scratch))
        for arm in args.arms:
            for seed in args.seeds:
                fold = pretrained(args.dataset, arm, seed, args.device).parent
                purity = purity_of(fold, Path(scratch), args.device)
                rows.append({"clusters": arm, "seed": str(seed)} | signs_of(fold) | purity)
    publish(rows, args.output)


if __name__ == "__main__":
    main()

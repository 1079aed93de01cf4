"""What a pre-training's clusters are like, beside those of a network that has not been trained.

    python benchmarks/cluster_quality.py --data FOLDER --work FOLDER --dataset 804 --arms untrained bim -device cpu

FOLDER as in benchmarks/pretraining.py, whose pre-trainings are used, and run where they are missing.

Of the last epoch's steps: mutual information, balance (marginal entropy as a share of its maximum), share of clusters
in use, agreement of two transformed views of a voxel. Of patches around foreground of the validation cases: correlation
of boundaries with edges, mean over the sub-heads. Of `nnUNetv2_semisup clusters` on the validation images, means over
cases and sub-heads: share of the voxels whose label is the commonest of their cluster, and Dice of the foreground with
the clusters that are mostly foreground.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from pretraining import ARMS, pretrained
from quality import SMALL, TRAIN_CASES, call, prepare, preprocessed_folder, runs_parser, set_environment
from table import publish
from torch import Tensor

from nnunetv2_semisup.evaluation.clusters.model import load_cluster_model
from nnunetv2_semisup.losses.boundary import boundary_loss
from nnunetv2_semisup.losses.edges import edge_map
from nnunetv2_semisup.losses.entropy import shannon_entropy
from nnunetv2_semisup.networks.features import forward_with_features
from nnunetv2_semisup.training.checkpoint import SECTION
from nnunetv2_semisup.training.checkpoint_reading import read_checkpoint

CLUSTERED = [arm for arm in ARMS if arm not in ("scratch", "infonce", "masked")]
SIGNS = {
    "nats": "nats",
    "balance": "marginal_entropy",
    "in use": "used",
    "agreement": "stability",
}
PATCHES = 32


def signs_of(fold: Path) -> dict[str, str]:
    """The signs of life of the last epoch."""
    with (fold / "semisup_log.csv").open(newline="") as stream:
        *_, last = csv.DictReader(stream)
    return {column: f"{float(last[f'sign/{sign}']):.3f}" for column, sign in SIGNS.items()}


def validation_patches(dataset: int) -> Tensor:
    """[PATCHES, C, *patch size], around foreground, the same ones every time."""
    folder = preprocessed_folder(dataset)
    plans = PlansManager(str(folder / f"{SMALL}.json"))
    configuration = plans.get_configuration("3d_fullres")
    cases = str(folder / configuration.data_identifier)
    (split,) = json.loads((folder / "splits_final.json").read_text())
    loader = nnUNetDataLoader(
        infer_dataset_class(cases)(cases, split["val"]),
        PATCHES,
        configuration.patch_size,
        configuration.patch_size,
        plans.get_label_manager(json.loads((folder / "dataset.json").read_text())),
        oversample_foreground_percent=1.0,
    )
    np.random.seed(0)
    patches: Tensor = next(loader)["data"]
    return patches


@torch.no_grad()
def boundaries_of(fold: Path, patches: Tensor) -> dict[str, str]:
    """Boundary correlation of the assignments in these patches, with the windows of the pre-training."""
    model = load_cluster_model(fold.parent, "0")
    section = read_checkpoint(model.checkpoint)[SECTION]
    boundary = section["settings"]["boundary"]
    spacing = model.plans["configurations"][model.configuration]["spacing"]
    edges, known = edge_map(patches, spacing, boundary["gamma"])
    _, (features,) = forward_with_features(model.network.eval(), patches, [model.tap])
    entropies = [shannon_entropy(head(features)).unsqueeze(1) for head in model.heads]
    losses = [boundary_loss(entropy, edges, boundary["radius"], known, boundary["flat"]) for entropy in entropies]
    return {"boundaries": f"{-float(torch.stack(losses).mean()):.3f}"}


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
    patches = validation_patches(args.dataset)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        validation_images(args.dataset, Path(scratch))
        for arm in args.arms:
            for seed in args.seeds:
                fold = pretrained(args.dataset, arm, seed, args.device).parent
                purity = purity_of(fold, Path(scratch), args.device)
                cells = signs_of(fold) | boundaries_of(fold, patches) | purity
                rows.append({"clusters": arm, "seed": str(seed)} | cells)
    publish(rows, args.output)


if __name__ == "__main__":
    main()

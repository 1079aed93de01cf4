"""Dice from 4 dense cases, 12 sparse ones and the rest unlabelled: one CSV of per-case Dice a run.

    python benchmarks/mixed_supervision.py --data FOLDER --work FOLDER --dataset 804 --mode slices --arms partial both

FOLDER as in benchmarks/quality.py, whose plans, training length and validation cases are used. A dataset is made of the
same images, with `nnUNetv2_semisup sparsify` for the sparse labels and nnU-Net's ignore label. LabeledOnly on the dense
cases alone is benchmarks/quality.py's labeledonly-4.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from quality import (
    LENGTH,
    RESULTS,
    SMALL,
    TRAIN_CASES,
    call,
    csv_name,
    plan,
    plans_name,
    prepare,
    runs_parser,
    set_environment,
    train_plans,
    write_run,
)

from nnunetv2_semisup.methods import methods

DENSE, LABELED = 4, 16
BUDGETS = {"slices": "0.1", "scribbles": "0.01"}
"""Share of the voxels of a sparse case that stay annotated."""
PAPER = ["entropy.form=shannon"]
ARMS: dict[str, tuple[str, list[str]]] = {
    "partial": ("labeledonly", []),
    "both": ("mixedkd", []),
    "paper": ("mixedkd", PAPER),
    "paper-decoders": ("mixedkd", [*PAPER, "kd.weight=0", "entropy.weight=0"]),
    "paper-kd": ("mixedkd", [*PAPER, "entropy.weight=0"]),
    "paper-entropy": ("mixedkd", [*PAPER, "kd.weight=0"]),
    "paper-everywhere": ("mixedkd", [*PAPER, "kd.domain=all"]),
    "paper-everywhere-view": ("mixedkd", [*PAPER, "kd.domain=all", "kd.view=other"]),
    "pseudo": ("mixedkd", ["entropy.form=pseudo_label"]),
    "sparse-tenth": ("mixedkd", ["sparse.weight=0.1"]),
    "one-decoder": ("mixedkd", ["kd.weight=0", "teacher.weight=0"]),
    "everywhere": ("mixedkd", ["kd.domain=all"]),
    "fixmatch": ("fixmatch", []),
    "dense": ("labeledonly", []),
}
"""Arm -> method, settings that differ from the preset. "dense" has dense labels of the sparse cases as well."""


def sparse_dataset(dataset: int, mode: str) -> int:
    """Make the raw dataset with sparse labels and preprocess it for the small plans; returns its number."""
    source = next(Path(os.environ["nnUNet_raw"]).glob(f"Dataset{dataset:03d}_*"))
    number = dataset % 100 + 100 * (2 + list(BUDGETS).index(mode))
    name = f"Dataset{number:03d}_{source.name.split('_', 1)[1]}{mode.capitalize()}"
    work = Path(os.environ["nnUNet_preprocessed"]).parent / "raw"
    target, preprocessed = work / name, Path(os.environ["nnUNet_preprocessed"]) / name
    cases = sorted(file.name.removesuffix(".nii.gz") for file in (source / "labelsTr").glob("*.nii.gz"))
    train, val = cases[: TRAIN_CASES[dataset]], cases[TRAIN_CASES[dataset] :]
    plans = json.loads((preprocessed.parent / source.name / f"{SMALL}.json").read_text())
    if not target.exists():
        labels = work / f"labels_{name}"  # nnU-Net takes every folder that begins with Dataset and the number
        shutil.rmtree(labels, ignore_errors=True)
        call(
            "nnUNetv2_semisup", "sparsify", "-i", str(source / "labelsTr"), "-o", str(labels), "--mode", mode,
            "--budget", BUDGETS[mode],
        )  # fmt: skip
        making = work / f"part_{name}"
        shutil.rmtree(making, ignore_errors=True)
        for folder in ("imagesTr", "imagesUn", "labelsTr"):
            (making / folder).mkdir(parents=True)
        for case in cases:
            is_labeled = case in [*train[:LABELED], *val]
            for image in (source / "imagesTr").glob(f"{case}_*.nii.gz"):
                shutil.copy(image, making / ("imagesTr" if is_labeled else "imagesUn"))
            if is_labeled:
                is_sparse = case in train[DENSE:LABELED]
                shutil.copy((labels if is_sparse else source / "labelsTr") / f"{case}.nii.gz", making / "labelsTr")
        description = json.loads((labels / "dataset.json").read_text())
        (making / "dataset.json").write_text(json.dumps(description | {"numTraining": LABELED + len(val)}))
        making.rename(target)
    os.environ["nnUNet_raw"] = str(work)
    if not (preprocessed / f"{SMALL}.json").exists():
        call("nnUNetv2_extract_fingerprint", "-d", str(number), "-np", "2")
        preprocessed.mkdir(exist_ok=True)
        shutil.copy(target / "dataset.json", preprocessed)
        (preprocessed / f"{SMALL}.json").write_text(json.dumps(plans | {"dataset_name": name}))
    # nnU-Net's preprocessing empties the folder first, in which another run may be training; it ends with this one.
    if not (preprocessed / "gt_segmentations").exists():
        call("nnUNetv2_preprocess", "-d", str(number), "-plans_name", SMALL, "-c", "3d_fullres", "-np", "2")
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": train[:LABELED], "val": val}]))
    call("nnUNetv2_semisup", "preprocess", "-d", str(number), "-c", "3d_fullres", "-p", SMALL)
    return number


def train(dataset: int, arm: str, mode: str, seed: int, device: str) -> Path:
    """Train with stock's command, or go on; returns the fold's folder."""
    method, settings = ARMS[arm]
    name = plans_name(arm, seed)
    values = [*LENGTH, "training.save_every=5", f"training.seed={seed}", *settings]
    number = dataset
    if arm == "dense":
        split = f"first{LABELED}"
        options = ["--labeled", str(LABELED), "--first", "-o", split]
        call("nnUNetv2_semisup", "split", "-d", str(dataset), "-f", "0", *options)
        values.append(f"data.split={split}")
    else:
        number = sparse_dataset(dataset, mode)
    plan(number, method, name, values)
    return train_plans(number, methods()[method], name, device, "--c")


def run_name(arm: str, mode: str) -> str:
    """In the names of the files."""
    return f"labeledonly-{LABELED}" if arm == "dense" else f"{mode}-{arm}"


def main() -> None:
    parser = runs_parser(__doc__, ARMS, (0, 1, 2))
    parser.add_argument("--mode", choices=BUDGETS, default="slices", help="of the sparse labels")
    parser.add_argument("-device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of the CSV files")
    args = parser.parse_args()
    for seed in args.seeds:
        for arm in args.arms:
            run = run_name(arm, args.mode)
            if not (args.output / csv_name(args.dataset, run, seed)).exists():
                set_environment(args.data, args.work)
                prepare(args.dataset)
                fold = train(args.dataset, arm, args.mode, seed, args.device)
                write_run(fold, args.output, args.dataset, run, seed)


if __name__ == "__main__":
    main()

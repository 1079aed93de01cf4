"""The dataset with sparse labels that benchmarks/mixed_supervision.py makes."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tests.benchmarks import script
from tests.workspace import DATASET, make_workspace


def labels_of(folder: Path, case: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(folder / "labelsTr" / f"{case}.nii.gz"))


def test_dense_sparse_and_unlabelled_cases_are_made_of_one_dataset(tmp_path, monkeypatch):
    mixed = script("mixed_supervision")
    number = int(DATASET[7:10])
    workspace = make_workspace(tmp_path)
    plans = workspace.plans()
    small = workspace.dataset_folder / f"{mixed.SMALL}.json"
    small.write_text(json.dumps(plans | {"plans_name": mixed.SMALL}))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setitem(mixed.TRAIN_CASES, number, 4)
    monkeypatch.setattr(mixed, "DENSE", 1)
    monkeypatch.setattr(mixed, "LABELED", 3)
    source = tmp_path / "raw" / DATASET
    cases = sorted(file.name.removesuffix(".nii.gz") for file in (source / "labelsTr").iterdir())
    with workspace.active(workers=1):
        made = mixed.sparse_dataset(number, "slices")
    (raw,) = (tmp_path / "raw").glob(f"Dataset{made}_*")
    ignore = json.loads((raw / "dataset.json").read_text())["labels"]["ignore"]
    dense, *sparse = cases[:3]
    np.testing.assert_array_equal(labels_of(raw, dense), labels_of(source, dense))
    for case in sparse:
        labels = labels_of(raw, case)
        annotated = labels != ignore
        assert 0 < annotated.mean() < 0.3
        np.testing.assert_array_equal(labels[annotated], labels_of(source, case)[annotated])
    assert not (raw / "labelsTr" / f"{cases[3]}.nii.gz").exists()
    assert any((raw / "imagesUn").glob(f"{cases[3]}_*"))
    np.testing.assert_array_equal(labels_of(raw, cases[4]), labels_of(source, cases[4]))  # a validation case
    (preprocessed,) = (tmp_path / "preprocessed").glob(f"Dataset{made}_*")
    (fold,) = json.loads((preprocessed / "splits_final.json").read_text())
    assert fold == {"train": cases[:3], "val": cases[4:]}

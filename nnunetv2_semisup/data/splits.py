"""Split files: which training cases of a fold are labelled, which serve as unlabelled, and which validate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunetv2_semisup.data.folders import dataset_option, preprocessed_identifiers, read_json, write_json
from nnunetv2_semisup.data.raw_cases import training_cases
from nnunetv2_semisup.errors import SemiSupervisedError

Fold = int | str
"""A number, or "all"."""


_OPTIONAL = ("dense", "sparse")


@dataclass(frozen=True)
class Split:
    """One fold of a split file; identifiers, sorted.

    Attributes:
        labeled: cases that keep their labels.
        unlabeled: training cases whose labels are not used.
        val: validation cases.
        dense: labelled cases that mixed supervision shall take for densely annotated, whatever their labels look like.
        sparse: those that it shall take for sparsely annotated. What neither names it finds out by itself.
    """

    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    val: tuple[str, ...]
    dense: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()


def split_file(dataset_folder: Path, name: str) -> Path:
    """The file of a named split. Raises SemiSupervisedError for a name that cannot be one."""
    if not re.fullmatch(r"[\w.-]+", name) or name == "final":
        raise SemiSupervisedError(
            f"{name!r} cannot name a split file: use letters, digits, '.', '-' and '_', and not 'final', "
            "which is nnU-Net's own"
        )
    return dataset_folder / f"splits_{name}.json"


def read_split(dataset_folder: Path, name: str, fold: Fold) -> Split:
    """One fold of a split file.

    Raises SemiSupervisedError: no such file, no such fold, not a split file, a case on two sides. With fold "all" a
    labelled case may validate, as in stock nnU-Net.
    """
    file = split_file(dataset_folder, name)
    command = f"nnUNetv2_semisup split -d {dataset_option(dataset_folder.name)} -f {fold} --labeled N -o {name}"
    if not file.is_file():
        raise SemiSupervisedError(f"there is no split file {file}; type: {command}")
    content = read_json(file)
    if not isinstance(content, dict) or str(fold) not in content:
        raise SemiSupervisedError(f"the split file {file} has no fold {fold}; type: {command}")
    try:
        split = _split_from_json(content[str(fold)])
    except (TypeError, KeyError) as error:
        raise SemiSupervisedError(
            f"fold {fold} of {file} must hold three lists of identifiers: labeled, unlabeled and val (and may hold two "
            "more: dense and sparse)"
        ) from error
    sides = [("labeled", split.labeled, "unlabeled", split.unlabeled), ("unlabeled", split.unlabeled, "val", split.val)]
    if fold != "all":
        sides.append(("labeled", split.labeled, "val", split.val))
    sides.append(("dense", split.dense, "sparse", split.sparse))
    for one, its_cases, other, other_cases in sides:
        if both := sorted(set(its_cases) & set(other_cases)):
            raise SemiSupervisedError(f"fold {fold} of {file}: {both[0]} is in {one} and in {other}; mend the file")
    if not split.labeled:
        raise SemiSupervisedError(f"fold {fold} of {file} has no labeled case; mend the file")
    if foreign := sorted({*split.dense, *split.sparse} - set(split.labeled)):
        raise SemiSupervisedError(f"fold {fold} of {file}: {foreign[0]} is in dense or sparse and not in labeled; "
                                  "mend the file")  # fmt: skip
    return split


def write_split(dataset_folder: Path, name: str, fold: Fold, split: Split) -> Path:
    """Add one fold to a split file, keeping its other folds. The same content again is fine.

    Raises SemiSupervisedError where the file has the fold with other cases.
    """
    file = split_file(dataset_folder, name)
    content = read_json(file) if file.exists() else {}
    entry = {side: list(cases) for side, cases in asdict(split).items() if cases or side not in _OPTIONAL}
    if content.get(str(fold), entry) != entry:
        raise SemiSupervisedError(
            f"{file} has fold {fold} with other cases already; move it away if no training needs it any more, or, for "
            "split, choose another name with -o"
        )
    if str(fold) not in content:
        write_json(content | {str(fold): entry}, file)
    return file


def make_split(
    dataset_folder: Path,
    raw_folder: Path,
    dataset_json: dict[str, Any],
    fold: Fold,
    num_labeled: int,
    seed: int | None = 0,
    group: str | None = None,
    num_sparse: int | None = None,
) -> Split:
    """Choose the labelled cases among a fold's training cases; the rest of them are unlabelled.

    For mixed supervision the labelled cases are dense, and the next ones of the draw are sparse. The draw does not look
    at the labels: it says which cases shall be sparse, for instance those that `sparsify` then thins.

    The folds are those of splits_final.json, which is made as nnU-Net makes it where it is missing. Fold "all" has all
    cases; as in stock nnU-Net it validates on what it trains on with labels, for want of others: the labelled cases,
    since a validation case never serves as an unlabelled one.

    Args:
        dataset_folder: of nnUNet_preprocessed.
        raw_folder: of nnUNet_raw; read if nothing is preprocessed yet.
        dataset_json: content of the dataset's dataset.json.
        fold: a fold of splits_final.json, or "all".
        num_labeled: how many cases keep their labels, at least 1; with `num_sparse`, how many are dense.
        seed: of the draw; None takes the first by name.
        group: regular expression whose first group, or else whose whole match, names the patient of an identifier.
            All cases of a patient are on the same side. Training cases of a patient who validates are left out.
        num_sparse: how many labelled cases are sparse, at least 1; None: the split says nothing of dense and sparse.

    Raises:
        SemiSupervisedError: fewer cases than asked for; whole patients that do not add up to it; an unknown fold;
            a `group` that is no expression, or does not match an identifier.
    """
    cases = labeled_identifiers(dataset_folder, raw_folder, dataset_json)
    train, val = (cases, []) if fold == "all" else _kept_fold(dataset_folder, cases, fold)
    patient_of = {case: _patient(case, group) for case in (*train, *val)}
    validating = {patient_of[case] for case in val}
    patients: dict[str, list[str]] = {}
    for case in sorted(train):
        if patient_of[case] not in validating:
            patients.setdefault(patient_of[case], []).append(case)
    num_available = sum(map(len, patients.values()))
    asked = f"--labeled {num_labeled}" if num_sparse is None else f"--dense {num_labeled} --sparse {num_sparse}"
    if num_labeled + (num_sparse or 0) > num_available:
        raise SemiSupervisedError(f"{asked}: fold {fold} has {num_available} training cases; ask for at most that many")
    order = list(patients.values())
    if seed is not None:
        order = [order[index] for index in np.random.RandomState(seed).permutation(len(order))]
    first = _first_that_add_up(order, num_labeled, "--labeled" if num_sparse is None else "--dense")
    others = [patient for patient in order if patient not in first]
    second = [] if num_sparse is None else _first_that_add_up(others, num_sparse, "--sparse")
    dense, sparse = (tuple(sorted(case for patient in chosen for case in patient)) for chosen in (first, second))
    labeled = tuple(sorted({*dense, *sparse}))
    unlabeled = sorted({case for patient in order for case in patient} - set(labeled))
    split = Split(labeled, tuple(unlabeled), labeled if fold == "all" else tuple(sorted(val)))
    return split if num_sparse is None else replace(split, dense=dense, sparse=sparse)


def labeled_identifiers(dataset_folder: Path, raw_folder: Path, dataset_json: dict[str, Any]) -> list[str]:
    """The labelled cases, sorted: those that stock nnU-Net preprocessed, or if it has not yet, those it will.

    Raises SemiSupervisedError where there are none, or where two configurations hold different ones.
    """
    found: dict[frozenset[str], Path] = {}
    for folder in sorted(path for path in dataset_folder.iterdir() if path.is_dir()):
        if not folder.name.endswith("_unlabeled") and any(folder.glob("*.pkl")):
            found[frozenset(preprocessed_identifiers(folder))] = folder
    option = dataset_option(dataset_folder.name)
    if len(found) > 1:
        names = " and ".join(folder.name for folder in found.values())
        raise SemiSupervisedError(
            f"{names} hold different cases; delete what is out of date, or type, with -plans_name where the plans are "
            f"not nnUNetPlans: nnUNetv2_preprocess -d {option}"
        )
    cases = set(*found) or set(training_cases(raw_folder, dataset_json))
    if not cases:
        raise SemiSupervisedError(f"{dataset_folder.name} has no labelled case; put some into {raw_folder}/imagesTr "
                                  f"and labelsTr and type: nnUNetv2_plan_and_preprocess -d {option}")  # fmt: skip
    return sorted(cases)


def stock_fold(dataset_folder: Path, cases: Sequence[str], fold: Fold) -> tuple[list[str], list[str]]:
    """Training and validation cases of a fold of splits_final.json, or of what nnU-Net will write there.

    Args:
        dataset_folder: of nnUNet_preprocessed.
        cases: all labelled cases, sorted.
        fold: a number.

    Raises:
        SemiSupervisedError: no such fold, too few cases for nnU-Net's folds, a file that names an unknown case.
    """
    file = dataset_folder / "splits_final.json"
    if not file.exists() and len(cases) < 5:
        raise SemiSupervisedError(
            f"nnU-Net makes 5 folds of at least 5 cases, here are {len(cases)}; write {file} yourself or use -f all"
        )
    folds = read_json(file) if file.exists() else generate_crossval_split(list(cases), seed=12345, n_splits=5)
    if not isinstance(fold, int) or not 0 <= fold < len(folds):
        raise SemiSupervisedError(f"-f {fold}: {file} has the folds 0 to {len(folds) - 1}; choose one of them, or all")
    train, val = ([str(case) for case in folds[fold][side]] for side in ("train", "val"))
    if unknown := sorted({*train, *val} - set(cases)):
        raise SemiSupervisedError(f"{file} names {unknown[0]}, which the dataset lacks; mend or delete the file")
    return train, val


def _kept_fold(dataset_folder: Path, cases: Sequence[str], fold: Fold) -> tuple[list[str], list[str]]:
    """`stock_fold`; and nnU-Net's file is written where it is missing, so that the folds stay what they are."""
    sides = stock_fold(dataset_folder, cases, fold)
    file = dataset_folder / "splits_final.json"
    if not file.exists():
        write_json(generate_crossval_split(list(cases), seed=12345, n_splits=5), file)
    return sides


def _patient(case: str, group: str | None) -> str:
    if group is None:
        return case
    try:
        match = re.search(group, case)
    except re.error as error:
        raise SemiSupervisedError(f"--group {group}: is no regular expression: {error}") from error
    if match is None:
        raise SemiSupervisedError(f"--group {group}: does not match the case {case}; give an expression that does")
    return match[1] if match.re.groups and match[1] is not None else match[0]


def _first_that_add_up(groups: Sequence[list[str]], total: int, option: str) -> list[list[str]]:
    """The first groups, in their order, whose sizes add up to `total`: each is taken where the rest can still do so."""
    # Bit n of reachable[i]: groups i, i+1, ... can add up to n.
    reachable = [1]
    for group in reversed(groups):
        reachable.append(reachable[-1] | reachable[-1] << len(group))
    reachable.reverse()
    if not reachable[0] >> total & 1:
        below = max(size for size in range(total) if reachable[0] >> size & 1)
        above = next(size for size in range(total, reachable[0].bit_length()) if reachable[0] >> size & 1)
        nearest = f"{below} or {above}" if below else f"{above}"
        raise SemiSupervisedError(f"{option} {total}: whole patients do not add up to it; ask for {nearest}")
    chosen = []
    for group, rest in zip(groups, reachable[1:], strict=True):
        if total >= len(group) and rest >> (total - len(group)) & 1:
            chosen.append(group)
            total -= len(group)
    return chosen


def _split_from_json(entry: Any) -> Split:
    sides = {side: entry[side] for side in ("labeled", "unlabeled", "val")}
    sides |= {side: entry.get(side, []) for side in _OPTIONAL}
    for cases in sides.values():
        if not isinstance(cases, list) or not all(isinstance(case, str) for case in cases):
            raise TypeError
    return Split(**{side: tuple(sorted(set(cases))) for side, cases in sides.items()})

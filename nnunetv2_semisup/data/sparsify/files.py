"""From a folder of dense label files to one of sparse ones, with a count of what is left: all of it, or nothing."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import astuple, dataclass, fields
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.reader_writer_registry import (
    determine_reader_writer_from_dataset_json,
    recursive_find_reader_writer_by_name,
)
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from tqdm import tqdm

from nnunetv2_semisup.data.folders import read_json, write_json
from nnunetv2_semisup.data.image_integrity import check_nifti
from nnunetv2_semisup.data.raw_cases import find_labels
from nnunetv2_semisup.data.sparsify.modes import Labels, sparsify
from nnunetv2_semisup.data.staging import put_in_place, refuse_existing, refuse_unwritable, staging_folder
from nnunetv2_semisup.data.workers import Workers
from nnunetv2_semisup.errors import SemiSupervisedError

TABLE = "annotated.csv"
"""One row a `Row`."""
ALL = "all"
"""In place of a case or a class: all of them."""


@dataclass(frozen=True)
class Request:
    """What the labels shall be; see `sparsify`."""

    mode: str
    budget: float
    foreground_only: bool
    seed: int


@dataclass(frozen=True)
class Row:
    """How much is annotated, of one class in one case or of `ALL`."""

    case: str
    label: str
    """The value in the files."""
    name: str
    """Of the class, or of the regions that it belongs to."""
    voxels: int
    """Before; of `ALL` classes every voxel of the case, the ignored ones too."""
    annotated: int
    """After."""
    share: float
    """annotated / voxels; of `ALL` classes this is what the budget limits."""
    size: float
    """Of what is annotated."""
    unit: str
    """Of `size`: mm3, of 2D images mm2."""


@dataclass(frozen=True)
class Written:
    """What was written."""

    ignore: int
    """The value of the voxels without annotation."""
    rows: list[Row]
    """Case by case, then those of `ALL` cases; in each, `ALL` classes first."""


@dataclass(frozen=True)
class _Sparsifier:
    """Makes one label file sparse; sent to other processes."""

    reader: str
    names: Mapping[int, str]
    """Of every label that dataset.json declares but the ignore label."""
    allowed: tuple[int, ...]
    """What a file may hold."""
    ignore: int
    request: Request
    target: Path
    ending: str

    def __call__(self, task: tuple[str, Path]) -> list[Row] | str:
        """Writes the case; its rows, or what is wrong with the file."""
        case, file = task
        try:
            return self._write(case, file)
        except Exception as error:
            return f"{file}: {_line(error)}"

    def _write(self, case: str, file: Path) -> list[Row]:
        reader = recursive_find_reader_writer_by_name(self.reader)()
        labels, properties = self._read(reader, file)
        spacing = [float(size) for size in properties["spacing"]]
        request = self.request
        sparse = sparsify(
            labels,
            spacing,
            mode=request.mode,
            budget=request.budget,
            ignore=self.ignore,
            foreground_only=request.foreground_only,
            rng=np.random.default_rng([request.seed, *case.encode()]),
        )
        try:
            with redirect_stdout(StringIO()):
                reader.write_seg(sparse, str(self.target / f"{case}{self.ending}"), properties)
        except Exception as error:
            raise SemiSupervisedError(
                f"its copy cannot be written ({_line(error)}); make room or give another -o"
            ) from error
        return self._count(case, labels, sparse, spacing)

    def _read(self, reader: Any, file: Path) -> tuple[Labels, dict[str, Any]]:
        try:
            check_nifti(str(file))
            with redirect_stdout(StringIO()):
                values, properties = reader.read_seg(str(file))
        except Exception as error:
            raise SemiSupervisedError(f"it cannot be read ({_line(error)}); restore or remove it") from error
        if len(values) != 1:
            raise SemiSupervisedError(f"it has {len(values)} channels, and labels have one; convert the file")
        if len(foreign := np.setdiff1d(values, self.allowed)):
            allowed = ", ".join(map(str, self.allowed))
            raise SemiSupervisedError(f"it holds {foreign[0]:g}, and dataset.json has the labels {allowed}; mend one")
        return values[0].astype(np.int32), properties

    def _count(self, case: str, labels: Labels, sparse: Labels, spacing: Sequence[float]) -> list[Row]:
        # nnU-Net gives 2D images a spacing of its own invention along the axis that they do not have.
        size = float(np.prod([step for step, n in zip(spacing, labels.shape, strict=True) if n > 1]))
        unit = "mm2" if 1 in labels.shape else "mm3"

        def row(label: str, name: str, voxels: int, annotated: int) -> Row:
            return Row(case, label, name, voxels, annotated, annotated / voxels, annotated * size, unit)

        counts = [(value, int((labels == value).sum()), int((sparse == value).sum())) for value in self.names]
        rows = [row(str(value), self.names[value], voxels, left) for value, voxels, left in counts if voxels]
        return [row(ALL, "", labels.size, sum(left for _, _, left in counts)), *rows]


def sparsify_folder(source: Path, target: Path, request: Request, num_processes: int) -> Written:
    """Write a sparse copy of every label file, the dataset.json that they need, and the table of what is left.

    A case's labels depend on the request, its name and its own labels, on nothing else.

    Args:
        source: folder of label files; the dataset.json in it, or else beside it, says their ending and labels.
        target: new folder.
        request: what to do.
        num_processes: for the cases; 1 means this process.

    Raises:
        SemiSupervisedError: a target that exists or cannot be written; no dataset.json, or one whose labels nnU-Net
            refuses; a label file that cannot be read, holds other labels, or cannot be made as sparse.
    """
    refuse_existing(target)
    refuse_unwritable(target)
    dataset_json = _dataset_json(source)
    manager = _label_manager(dataset_json)
    ending = str(dataset_json["file_ending"])
    cases = find_labels(source, ending)
    names = {int(value): _name(int(value), dataset_json["labels"]) for value in manager.all_labels}
    ignore = max(names) + 1
    allowed = (*names, ignore) if manager.has_ignore_label else tuple(names)
    reader = _reader(dataset_json, next(iter(cases.values())))
    with staging_folder(target) as staging:
        sparsifier = _Sparsifier(reader, names, allowed, ignore, request, staging, ending)
        found = _run(sparsifier, list(cases.items()), num_processes)
        rows = [row for case in cases for row in found[case]]
        rows += _totals(rows)
        _write_table(rows, staging / TABLE)
        labels = {name: value for name, value in dataset_json["labels"].items() if name != "ignore"}
        write_json(dataset_json | {"labels": labels | {"ignore": ignore}}, staging / "dataset.json")
        put_in_place(staging, target)
    return Written(ignore, rows)


def _run(sparsifier: _Sparsifier, cases: list[tuple[str, Path]], num_processes: int) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    workers: AbstractContextManager[Workers | None] = nullcontext()
    if min(num_processes, len(cases)) > 1:
        workers = Workers(min(num_processes, len(cases)))
    with workers as pool, tqdm(desc="sparsify", total=len(cases), unit=" cases", disable=None) as bar:
        results: Iterable[tuple[tuple[str, Path], list[Row] | str | None]]
        results = ((task, sparsifier(task)) for task in cases) if pool is None else pool.run(sparsifier, cases)
        for (case, file), result in results:
            if result is None:
                raise SemiSupervisedError(f"{file} needs more memory than there is; type a smaller -np")
            if isinstance(result, str):
                raise SemiSupervisedError(result)
            found[case] = result
            bar.update()
    return found


def _dataset_json(source: Path) -> dict[str, Any]:
    """The dataset's description, in the folder of its labels or beside it."""
    for file in (source / "dataset.json", source.absolute().parent / "dataset.json"):
        if file.is_file():
            content = read_json(file)
            if not isinstance(content, dict) or not {"labels", "file_ending"} <= content.keys():
                raise SemiSupervisedError(f"{file} has no labels or no file_ending; mend it as nnU-Net wants it")
            return content
    raise SemiSupervisedError(
        f"there is no dataset.json in {source} or beside it; copy the dataset's there: it says which labels there are"
    )


def _label_manager(dataset_json: Mapping[str, Any]) -> LabelManager:
    try:
        return LabelManager(dict(dataset_json["labels"]), dataset_json.get("regions_class_order"))
    except Exception as error:
        raise SemiSupervisedError(f"nnU-Net refuses the labels in dataset.json: {_line(error)}") from error


def _name(value: int, labels: Mapping[str, Any]) -> str:
    return " + ".join(name for name, own in labels.items() if name != "ignore" and value in np.ravel(own).astype(int))


def _reader(dataset_json: dict[str, Any], example: Path) -> str:
    """Name of nnU-Net's class that reads and writes the files; an example tells 2D from 3D TIFF."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        try:
            reader = determine_reader_writer_from_dataset_json(dataset_json, str(example), verbose=False)
        except RuntimeError:
            raise SemiSupervisedError(f"{example} cannot be read; restore or remove it") from None
    return str(reader.__name__)


def _totals(rows: Sequence[Row]) -> list[Row]:
    labels = sorted({(row.label, row.name) for row in rows}, key=lambda key: -1 if key[0] == ALL else int(key[0]))
    totals = []
    for label, name in labels:
        own = [row for row in rows if row.label == label]
        voxels, annotated = sum(row.voxels for row in own), sum(row.annotated for row in own)
        size = sum(row.size for row in own)
        totals.append(Row(ALL, label, name, voxels, annotated, annotated / voxels, size, own[0].unit))
    return totals


def _write_table(rows: Sequence[Row], file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(field.name for field in fields(Row))
        writer.writerows([f"{x:.6g}" if isinstance(x, float) else x for x in astuple(row)] for row in rows)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

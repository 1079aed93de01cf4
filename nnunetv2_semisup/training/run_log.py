"""What a run says about its unlabelled terms: semisup_log.csv, nnU-Net's logger, TensorBoard."""

from __future__ import annotations

import csv
import math
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

LOG_FILE = "semisup_log.csv"


class EpochMeans:
    """Means over an epoch of scalars by name; they stay on their device until the epoch ends."""

    def __init__(self) -> None:
        """Start without any."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int | Tensor] = defaultdict(int)

    def add(self, name: str, value: Tensor) -> None:
        """Add one detached scalar."""
        self._add(name, value, 1)

    def add_known(self, name: str, value: Tensor) -> None:
        """Add one detached scalar unless it is nan, which says that there was nothing to measure."""
        known = ~value.isnan()
        self._add(name, value.where(known, 0), known.long())

    def _add(self, name: str, value: Tensor, count: int | Tensor) -> None:
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] += count

    def take(self) -> dict[str, float]:
        """The means, nan where nothing was known, and start anew."""
        counts = {name: int(count) for name, count in self._counts.items()}
        means = {name: float(total) / counts[name] if counts[name] else math.nan for name, total in self._sums.items()}
        self._sums.clear()
        self._counts.clear()
        return means


class RunLog:
    """One row an epoch in the fold's folder. Cells are finite numbers or empty (a term not computed, or not finite).

    Columns: `epoch`, `raw/TERM`, `weighted/TERM`, `grad/TERM` (norm of the weighted term's gradient at the features
    and logits that it reads, of one step an epoch), `sign/NAME`.
    """

    def __init__(self, folder: Path, columns: list[str]) -> None:
        """Log into `folder`; `cut_back` begins the files."""
        self.file = folder / LOG_FILE
        self.columns = columns
        self._tensorboard: Any = None

    def cut_back(self, epoch: int) -> None:
        """Keep what is before `epoch`: what a killed run wrote after its last checkpoint goes."""
        rows = read_log(self.file) if epoch > 0 and self.file.exists() else []
        self._write([row for row in rows if int(row["epoch"]) < epoch])
        self._tensorboard = _tensorboard_writer(self.file.parent, epoch)

    def append(self, epoch: int, values: Mapping[str, float]) -> None:
        """Write the row of one epoch."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        with self.file.open("a", newline="") as stream:
            csv.DictWriter(stream, ["epoch", *self.columns], restval="").writerow({"epoch": epoch, **finite})
        if self._tensorboard is not None:
            for name, value in finite.items():
                self._tensorboard.add_scalar(name, value, epoch)
            self._tensorboard.flush()

    def close(self) -> None:
        """End the TensorBoard file, if there is one."""
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _write(self, rows: list[dict[str, str]]) -> None:
        temporary = self.file.with_suffix(".tmp")
        with temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["epoch", *self.columns], restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self.file)


def read_log(file: Path) -> list[dict[str, str]]:
    """The rows of a semisup_log.csv; a row that a kill cut short is left out."""
    with file.open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if None not in row.values()]


def pad_logger(lists: dict[str, list[Any]], columns: list[str], epochs: int) -> None:
    """Register our keys with nnU-Net's local logger, which wants one value per key and epoch.

    After a resume its lists are replaced by the checkpoint's: keys that were not there get `nan` for the epochs done.
    """
    for column in columns:
        values = lists.setdefault(column, [])
        values.extend([math.nan] * (epochs - len(values)))
        del values[epochs:]


def _tensorboard_writer(folder: Path, epoch: int) -> Any:
    """A writer where the extra `tensorboard` is installed, else None; hides what is there from `epoch` on."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=epoch)

"""Which runs docs/reference/results.md shows, and how to make those that have no file.

Times are those of one core: the minutes of a LabeledOnly training, times what a step of the method takes as a multiple
of a stock step (docs/reference/results/step*_cpu.csv; for a method that is not there, the largest of them; with sparse
cases sparse_step_cpu.csv).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import mixed_supervision
import pretraining
from quality import ARMS, csv_name

BASE, FULL = "labeledonly-4", "labeledonly-all"


@dataclass(frozen=True)
class Dataset:
    """What one dataset's tables show: arms, and how many seeds of each are wanted.

    Attributes:
        number: nnU-Net's number of the dataset.
        minutes: of a LabeledOnly training on one core.
        main: the table of methods.
        variants: for some methods the table of what its parts bring; its first arm has the method's defaults.
    """

    number: int
    minutes: float
    main: dict[str, int]
    variants: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Start:
    """A row of the pre-trainings' table: what a training starts from, and how it goes on.

    Attributes:
        arm: of benchmarks/pretraining.py.
        epochs: of fine-tuning.
        seeds: wanted.
        labels: labelled cases.
        rate: largest learning rate of fine-tuning.
        method: of fine-tuning.
    """

    arm: str
    epochs: int
    seeds: int
    labels: int = 4
    rate: float = pretraining.RATE
    method: str = pretraining.METHOD

    @property
    def run(self) -> str:
        """In the names of the files."""
        return pretraining.run_name(self.arm, self.labels, self.epochs, self.rate, self.method)

    @property
    def scratch(self) -> Start:
        """The row with the same labels, length and method without a pre-training."""
        return Start("scratch", self.epochs, self.seeds, self.labels, method=self.method)


STARTS = {
    "left-atrium": [
        *(Start(arm, epochs, 3) for epochs in (60, 30, 15) for arm in ("scratch", "bim")),
        *(Start(arm, 60, 1, labels) for labels in (8, 16) for arm in ("scratch", "bim")),
        *(Start(arm, 60, 1, method="fixmatch") for arm in ("scratch", "bim")),
        *(Start("bim", epochs, 1, rate=0.003) for epochs in (60, 30, 15)),
        *(Start("bim-slow", epochs, 1) for epochs in (60, 30, 15)),
        *(Start(arm, 15, 1, rate=0.02) for arm in ("scratch", "bim")),
        Start("bim-slow", 15, 1, rate=0.003),
        Start("untrained", 15, 1),
        *(Start(arm, 60, 1) for arm in ("bim-alpha0", "bim-noboundary", "iic", "infonce", "masked")),
        *(Start(arm, 15, 1) for arm in ("iic", "infonce")),
    ],
    "hippocampus": [Start(arm, 60, 1) for arm in ("scratch", "bim")],
}
PRETRAINING_HOURS = 1.0
"""Of one core, for the pre-training of a seed."""


@dataclass(frozen=True)
class Mixture:
    """What one row of the table of mixed supervision shows: 4 dense cases, 12 sparse ones, the rest unlabelled.

    Attributes:
        mode: of the sparse labels.
        arm: of benchmarks/mixed_supervision.py.
        seeds: wanted.
    """

    mode: str
    arm: str
    seeds: int

    @property
    def run(self) -> str:
        """In the names of the files."""
        return mixed_supervision.run_name(self.arm, self.mode)


MIXTURES = [
    *(Mixture("slices", arm, 3) for arm in ("dense", "partial", "both")),
    *(Mixture("slices", arm, 1) for arm in mixed_supervision.ARMS if arm not in ("dense", "partial", "both")),
    *(Mixture("scribbles", arm, 1) for arm in ("partial", "both")),
]

DATASETS = {
    "left-atrium": Dataset(
        number=804,
        minutes=14,
        main={BASE: 3, FULL: 3, "mireg-4": 3, "fixmatch-4": 3, "meanteacher-4": 3, "uamt-4": 1, "cps-4": 1,
              "selftraining-4": 1, "entropymin-4": 1, "bim-4": 1, "localcontrast-4": 3, "crosslevel-4": 3,
              "mixedkd-4": 1, "fixmatch-localcontrast-4": 1, "fixmatch-crosslevel-4": 1},
        variants={
            "mireg": {"mireg-4": 3, "mireg-nomi-4": 3, "mireg-strong-4": 1, "mireg-noglobal-4": 1,
                      "mireg-nolocal-4": 1, "mireg-pooled-4": 1,
                      "mireg-mionly-4": 1, "mireg-pieces-4": 1, "mireg-unmixed-pieces-4": 1, "mireg-teacher-4": 1,
                      "mireg-own-4": 1, "mireg-own-nomi-4": 1},
            "meanteacher": {"meanteacher-4": 3, "meanteacher-weak-4": 1},
            "selftraining": {"selftraining-4": 1, "selftraining-filter-4": 1},
            "fixmatch": {"fixmatch-4": 3, "fixmatch-pieces-4": 1, "fixmatch-half-pieces-4": 1, "fixmatch-cutmix-4": 1,
                         "fixmatch-exchange-4": 1},
            "localcontrast": {"localcontrast-4": 3, "localcontrast-strong-4": 1, "localcontrast-1-4": 1,
                              "localcontrast-rounds-4": 1, "localcontrast-intra-4": 1, "localcontrast-anchors-4": 1},
            "crosslevel": {"crosslevel-4": 3, "crosslevel-contrast-4": 1, "crosslevel-consistency-4": 1,
                           "crosslevel-same-4": 1, "crosslevel-phases-4": 1, "crosslevel-25-4": 1,
                           "crosslevel-paper-4": 1, "crosslevel-code-4": 1},
            "bim": {"bim-4": 1, "bim-strong-4": 1},
            "mixedkd": {"mixedkd-4": 1, "mixedkd-self-4": 1},
        },
    ),
    "hippocampus": Dataset(
        number=805,
        minutes=30,
        main={BASE: 1, FULL: 1, "mireg-4": 1, "fixmatch-4": 1, "meanteacher-4": 1, "uamt-4": 1, "cps-4": 1,
              "selftraining-4": 1, "entropymin-4": 1, "localcontrast-4": 1, "crosslevel-4": 1},
        variants={},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Missing:
    """Runs of an arm that have no file.

    Attributes:
        dataset: its number.
        arm: of the script.
        seeds: of the runs.
        hours: of all of them together, on one core.
        script: that runs them, with options that other arms do not need.
    """

    dataset: int
    arm: str
    seeds: tuple[int, ...]
    hours: float
    script: tuple[str, ...] = ("benchmarks/quality.py",)

    @property
    def command(self) -> list[str]:
        """What to type, without the folders."""
        script, *options = self.script
        seeds = map(str, self.seeds)
        return [script, "--dataset", str(self.dataset), "--arms", self.arm, *options, "--seeds", *seeds]


def missing(folder: Path) -> list[Missing]:
    """What the tables want and no file holds."""
    ratios = _step_ratios(folder, "step*_cpu.csv")
    longest = max(ratios.values())
    found = []
    for data in DATASETS.values():
        arms = data.main.copy()
        for variants in data.variants.values():
            arms |= variants
        for arm, wanted in arms.items():
            seeds = _missing_seeds(folder, data, arm, wanted)
            if seeds:
                hours = len(seeds) * data.minutes * ratios.get(ARMS[arm][0], longest) / 60
                found.append(Missing(data.number, arm, seeds, hours))
    left_atrium = DATASETS["left-atrium"]
    mixtures = _missing_mixtures(
        folder, left_atrium, _step_ratios(folder, "sparse_step_cpu.csv").get("mixedkd", longest)
    )
    pretrained = [
        runs for name, starts in STARTS.items() for runs in _missing_starts(folder, DATASETS[name], starts, ratios)
    ]
    return found + pretrained + mixtures


def _step_ratios(folder: Path, pattern: str) -> dict[str, float]:
    """Step time over stock's by arm."""
    ratios = {}
    for file in sorted(folder.glob(pattern)):
        with file.open(newline="") as stream:
            ratios |= {row["arm"]: float(row["step / stock"]) for row in csv.DictReader(stream)}
    return ratios


def _missing_mixtures(folder: Path, data: Dataset, ratio: float) -> list[Missing]:
    found = []
    for row in MIXTURES:
        seeds = _missing_seeds(folder, data, row.run, row.seeds)
        if seeds:
            is_stock = mixed_supervision.ARMS[row.arm][0] == "labeledonly"
            hours = len(seeds) * data.minutes * (1 if is_stock else ratio) / 60
            script = ("benchmarks/mixed_supervision.py", "--mode", row.mode)
            found.append(Missing(data.number, row.arm, seeds, hours, script))
    return found


def _missing_seeds(folder: Path, data: Dataset, run: str, wanted: int) -> tuple[int, ...]:
    """The first seeds without a file, of as many as are wanted beside those that have one, whichever these are."""
    start = csv_name(data.number, run, 0).removesuffix("0.csv")
    present = {int(file.stem.removeprefix(start)) for file in folder.glob(f"{start}*.csv")}
    others = [seed for seed in range(wanted + len(present)) if seed not in present]
    return tuple(others[: max(wanted - len(present), 0)])


def _missing_starts(folder: Path, data: Dataset, starts: list[Start], ratios: dict[str, float]) -> list[Missing]:
    found = []
    longest = max(ratios.values())
    for start in starts:
        if start.run in ARMS:
            continue
        seeds = _missing_seeds(folder, data, start.run, start.seeds)
        if seeds:
            hours = len(seeds) * data.minutes * ratios.get(start.method, longest) * start.epochs / 60 / 60
            # The first row of an arm pre-trains for all of them.
            if start.arm != "scratch" and start == next(first for first in starts if first.arm == start.arm):
                hours += len(seeds) * PRETRAINING_HOURS
            options = "--labels", str(start.labels), "--rate", f"{start.rate:g}", "--epochs", str(start.epochs)
            script = ("benchmarks/pretraining.py", *options, "--method", start.method)
            found.append(Missing(data.number, start.arm, seeds, hours, script))
    return found

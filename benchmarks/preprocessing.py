"""Cases per second of `nnUNetv2_semisup preprocess` beside stock nnU-Net's preprocessing, on the same images.

    python benchmarks/preprocessing.py -i nnUNet_raw/Dataset804_LAquarter -n 20 -np 2 -o preprocessing.csv

Stock nnU-Net gets the first N cases of imagesTr with their labels. We get the same images without labels, the last five
cases as labelled ones, and stock's plans; our time includes all checks, and hashing the labelled images. Both include
starting the processes, which is most of it where cases are few and small. The two take turns. CPU seconds hardly depend
on what else the machine does.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median
from time import perf_counter

NUM_LABELED = 5
CONFIGURATION = "3d_fullres"
COLUMNS = ("preprocessing", "cases", "processes", "seconds", "cases_per_second", "cpu_seconds_per_case")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", required=True, type=Path, metavar="DATASET", help="raw dataset, of more than N + 5 cases")
    parser.add_argument("-n", type=int, default=20, metavar="N", help="cases, default: %(default)s")
    parser.add_argument("-np", type=int, default=2, metavar="P", help="processes, default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="the median of as many is shown, default: %(default)s")
    parser.add_argument("-o", type=Path, metavar="CSV", help="also write the table there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        rows = measure(args.i, Path(root), args.n, args.np, args.repeats)
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    if args.o:
        with args.o.open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])


def measure(source: Path, root: Path, num_cases: int, num_processes: int, repeats: int) -> list[tuple[object, ...]]:
    for name in ("raw", "preprocessed", "results"):
        (root / name).mkdir()
        os.environ[f"nnUNet_{name}"] = str(root / name)
    methods: dict[str, Callable[[int, int], None]] = {"stock nnU-Net": run_stock, "nnUNetv2_semisup": run_ours}
    make_datasets(source, root, num_cases)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            start, cpu_start = perf_counter(), cpu_seconds()
            with redirect_stdout(StringIO()):
                method(num_processes, num_cases)
            times[name].append((perf_counter() - start, cpu_seconds() - cpu_start))
    rows: list[tuple[object, ...]] = []
    for name, measured in times.items():
        wall, cpu = (median(values) for values in zip(*measured, strict=True))
        rate, cpu_per_case = num_cases / wall, cpu / num_cases
        rows.append((name, num_cases, num_processes, f"{wall:.2f}", f"{rate:.2f}", f"{cpu_per_case:.3f}"))
    return rows


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def make_datasets(source: Path, root: Path, num_cases: int) -> None:
    """Dataset 1 for stock nnU-Net and dataset 2 for us, both with the plans of all cases."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments

    description = json.loads((source / "dataset.json").read_text())
    ending = description["file_ending"]
    cases = sorted(file.name.removesuffix(ending) for file in (source / "labelsTr").iterdir())
    if num_cases + NUM_LABELED > len(cases):
        raise SystemExit(f"{source} has {len(cases)} cases: -n can be at most {len(cases) - NUM_LABELED}")
    parts = {"Dataset001_Stock": ("imagesTr", cases[:num_cases]), "Dataset002_Ours": ("imagesTr", cases[-NUM_LABELED:])}
    for dataset, (folder, chosen) in parts.items():
        raw = root / "raw" / dataset
        link_cases(source, raw, folder, chosen)
        (raw / "labelsTr").mkdir()
        for case in chosen:
            (raw / "labelsTr" / f"{case}{ending}").symlink_to((source / "labelsTr" / f"{case}{ending}").resolve())
        (raw / "dataset.json").write_text(json.dumps(description | {"numTraining": len(chosen)}))
    link_cases(source, root / "raw" / "Dataset002_Ours", "imagesUn", cases[:num_cases])
    preprocessed = root / "preprocessed"
    with redirect_stdout(StringIO()):
        extract_fingerprints([2], num_processes=1)
        plan_experiments([2])
    shutil.copytree(preprocessed / "Dataset002_Ours", preprocessed / "Dataset001_Stock")


def link_cases(source: Path, raw: Path, folder: str, cases: list[str]) -> None:
    (raw / folder).mkdir(parents=True)
    for case in cases:
        for file in (source / "imagesTr").glob(f"{case}_[0-9][0-9][0-9][0-9].*"):
            (raw / folder / file.name).symlink_to(file.resolve())


def run_stock(num_processes: int, expected: int) -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

    preprocess_dataset(1, configurations=[CONFIGURATION], num_processes=[num_processes], show_progress_bar=False)
    folder = Path(os.environ["nnUNet_preprocessed"]) / "Dataset001_Stock" / f"nnUNetPlans_{CONFIGURATION}"
    assert len(list(folder.glob("*.pkl"))) == expected


def run_ours(num_processes: int, expected: int) -> None:
    from nnunetv2_semisup.cli.main import main as command

    folder = Path(os.environ["nnUNet_preprocessed"]) / "Dataset002_Ours"
    shutil.rmtree(folder / f"nnUNetPlans_{CONFIGURATION}_unlabeled", ignore_errors=True)
    (folder / f"nnUNetPlans_{CONFIGURATION}_unlabeled.json").unlink(missing_ok=True)
    (folder / "labeled_voxel_hashes.json").unlink(missing_ok=True)
    assert command(["preprocess", "-d", "2", "-c", CONFIGURATION, "-np", str(num_processes)]) == 0
    assert len(list((folder / f"nnUNetPlans_{CONFIGURATION}_unlabeled").glob("*.pkl"))) == expected


if __name__ == "__main__":
    main()

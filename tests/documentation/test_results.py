"""The tables of docs/reference/results.md are those of the committed files, and say what has not been run."""

import csv
from pathlib import Path
from types import ModuleType

import pytest

from tests.benchmarks import script

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def results() -> ModuleType:
    """benchmarks/results.py."""
    return script("results")


def write(folder: Path, results: ModuleType, arm: str, seed: int, dice: list[float]) -> None:
    with (folder / results.csv_name(804, arm, seed)).open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "class", "dice", "dice_one_piece"])
        writer.writerows([[f"case{i}", 1, value, value + 0.01] for i, value in enumerate(dice)])


def test_the_page_is_what_the_script_makes_of_the_files(results: ModuleType):
    page = results.PAGE.read_text(encoding="utf-8")
    assert results.renewed(page) == page, "run `make results`"
    assert {match[1] for match in results.BLOCK.findall(page)} == results.tables(results.RESULTS).keys()


def test_a_row_has_the_paired_difference_and_the_share_of_the_gap(results: ModuleType, tmp_path: Path):
    for seed in range(2):
        write(tmp_path, results, "labeledonly-4", seed, [0.50, 0.60, 0.70, 0.80])
        write(tmp_path, results, "labeledonly-all", seed, [0.70, 0.80, 0.90, 1.00])
        write(tmp_path, results, "fixmatch-4", seed, [0.60, 0.70, 0.80, 0.90])
        write(tmp_path, results, "meanteacher-4", seed, [0.40, 0.50, 0.60, 0.70])
    rows = {line.split(" | ")[0]: line for line in results.main_table(tmp_path, data_of(results)).splitlines()}
    assert rows["| FixMatch"].split(" | ")[1:] == [
        "4", "2 of 3", "0.7500", "0.0000", "0.7600", "+0.1000 [+0.1000, +0.1000]", "4 of 4", "0.25",
        "0.50 [0.50, 0.50] |",
    ]  # fmt: skip
    assert rows["| CPS"].split(" | ")[2:4] == ["0 of 1", "not run"]


def test_only_seeds_that_both_arms_have_make_a_pair(results: ModuleType, tmp_path: Path):
    for seed in range(3):
        write(tmp_path, results, "labeledonly-4", seed, [0.5 + 0.1 * seed, 0.5])
    write(tmp_path, results, "fixmatch-4", 2, [0.8, 0.5])
    ours, base = results.pairs(tmp_path, 804, "fixmatch-4", "labeledonly-4")
    assert (ours - base).round(6).tolist() == [[0.1, 0.0]]


def test_what_is_missing_is_named_with_its_command_and_time(results: ModuleType, tmp_path: Path):
    (tmp_path / "step_cpu.csv").write_text("arm,step / stock\nlabeledonly,1.0\nfixmatch,3.0\n")
    data = data_of(results)
    write(tmp_path, results, "labeledonly-4", 0, [0.5])
    found = {runs.arm: runs for runs in results.missing(tmp_path) if runs.dataset == 804}
    assert found["labeledonly-4"].seeds == (1, 2)
    assert found["labeledonly-4"].hours == pytest.approx(2 * data.minutes / 60)
    assert found["cps-4"].hours == pytest.approx(3 * data.minutes / 60)
    assert found["fixmatch-4"].command[1:] == ["--dataset", "804", "--arms", "fixmatch-4", "--seeds", "0", "1", "2"]


def data_of(results: ModuleType):
    return results.DATASETS["left-atrium"]

"""The report of a comparison: whole or not there, the same numbers everywhere, and readable in a browser."""

import csv
import os
import re
from html import unescape

import numpy as np
import pytest

from nnunetv2_semisup.data.staging import refuse_existing
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.comparison import report as report_module
from nnunetv2_semisup.evaluation.comparison.compare import Comparison, compare
from nnunetv2_semisup.evaluation.comparison.page import COLUMNS, comparison_page
from nnunetv2_semisup.evaluation.comparison.pictures import Drawer, worst_cases
from nnunetv2_semisup.evaluation.comparison.report import write_report
from nnunetv2_semisup.training.cost import Cost
from tests.browser import assert_readable, browser, require_browser
from tests.evaluation.comparison.conftest import VAL

COST = Cost(samples=1200, gradient_samples=800, seconds=61.5, epochs=2, peak_memory_bytes=300 * 2**20)


@pytest.fixture(scope="module")
def comparison(module_lab) -> Comparison:
    """Two seeds of a baseline and of a method, all labels, a peer's segmentations, and a run that is refused."""
    runs, lab = [], module_lab
    for seed in range(2):
        runs += [lab.run(errors=0.4, seed=seed), lab.run("EntropyMin", errors=0.25, seed=seed)]
        COST.write(runs[-1])
    runs += [lab.run(errors=0.1, labels="all"), lab.segmentations("<peer> & co", 0.3)]
    runs.append(lab.run("EntropyMin", seed=2, change=lambda c: c["semisup"]["cases"].update(val=["x"]), name="bad"))
    return compare(runs, [])


@pytest.fixture(scope="module")
def written(comparison, tmp_path_factory):
    """The folder of its report."""
    folder = tmp_path_factory.mktemp("report") / "out"
    assert write_report(comparison, folder) == folder / "index.html"
    return folder


def read_csv(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def gains_by_case(folder, method):
    """Mean Dice of a method over seeds and structures minus LabeledOnly's with 2 labels, case by case."""
    rows = [row for row in read_csv(folder / "cases.csv") if row["labels"] != "all"]
    own, base = (
        [np.mean([float(r["Dice"]) for r in rows if (r["method"], r["case"]) == (name, case)]) for case in VAL]
        for name in (method, "LabeledOnly")
    )
    return np.subtract(own, base)


def html_table(page, number=0):
    """The cells of the main table, or of another one that can be sorted, by heading."""
    table = re.findall(r"<table class='sortable'>.*?</table>", page, re.DOTALL)[number]
    headings = [unescape(text) for text in re.findall(r"<button[^>]*>(.*?)</button>", table)]
    rows = re.findall(r"<tr>(<td.*?)</tr>", table)
    return [
        list(zip(headings, [unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)], strict=True))
        for row in rows
    ]


def test_page_csv_and_latex_say_the_same_numbers(written):
    page = (written / "index.html").read_text()
    lines = read_csv(written / "table.csv")
    shown = html_table(page)
    assert len(lines) == len(shown) == 4
    for line, cells in zip(lines, shown, strict=True):
        for (keys, heading, _), (found, text) in zip(COLUMNS, cells, strict=True):
            assert heading == found
            if keys.endswith("high"):
                low, high = ("gap low", "gap high") if "gap" in keys else ("low", "high")
                assert text == (f"[{line[low]}, {line[high]}]" if line[low] else "")
            else:
                assert text == line[keys], keys
    latex = (written / "table.tex").read_text()
    for line in lines:
        assert f"{line['HD95']} & {line['ASSD']} & {line['difference']}" in latex
    assert r"<peer> \& co" in latex


def test_tables_follow_from_the_cases(written):
    cases = read_csv(written / "cases.csv")
    table = {(line["method"], line["labels"]): line for line in read_csv(written / "table.csv")}
    assert {line["case"] for line in cases} == set(VAL)
    for (method, labels), line in table.items():
        own = [row for row in cases if (row["method"], row["labels"]) == (method, labels)]
        for metric, digits in (("Dice", 4), ("IoU", 4), ("HD95", 2), ("ASSD", 2)):
            mean = np.mean([float(row[metric]) for row in own])
            assert float(line[metric]) == pytest.approx(mean, abs=0.6 * 10**-digits)
        seeds = sorted({row["seed"] for row in own})
        means = [np.mean([float(row["Dice"]) for row in own if row["seed"] == seed]) for seed in seeds]
        if len(means) > 1:
            assert float(line["Dice sd"]) == pytest.approx(np.std(means, ddof=1), abs=6e-5)
        else:
            assert line["Dice sd"] == ""
    base, method = (float(table[name, "2"]["Dice"]) for name in ("LabeledOnly", "EntropyMin"))
    assert float(table["EntropyMin", "2"]["difference"]) == pytest.approx(method - base, abs=1.2e-4)
    structures = read_csv(written / "structures.csv")
    for line in structures:
        if line["structure"] == "mean" and line["metric"] == "Dice":
            same = table[line["method"], line["labels"]]
            assert (line["mean"], line["low"], line["p Holm"]) == (same["Dice"], same["low"], same["p Holm"])


def test_page_and_csv_say_the_same_of_every_structure(written):
    lines = read_csv(written / "structures.csv")
    shown = html_table((written / "index.html").read_text(), 1)
    assert len(lines) == len(shown) == 4 * 5 * 4
    assert [dict(cells) for cells in shown] == lines


def test_structures_are_those_of_the_cases(written):
    by_structure = {}
    for case in read_csv(written / "cases.csv"):
        for metric in ("Dice", "IoU", "HD95", "ASSD"):
            key = case["method"], case["labels"], case["structure"], metric
            by_structure.setdefault(key, []).append(float(case[metric]))
    lines = [line for line in read_csv(written / "structures.csv") if line["structure"] != "mean"]
    assert len(lines) == len(by_structure)
    for line in lines:
        mean = np.mean(by_structure[line["method"], line["labels"], line["structure"], line["metric"]])
        digits = 4 if line["metric"] in ("Dice", "IoU") else 2
        assert float(line["mean"]) == pytest.approx(mean, abs=0.6 * 10**-digits)


def test_the_sentences_say_the_numbers_of_the_table(written):
    """Of each method, and the word for it follows from the interval."""
    page = unescape((written / "index.html").read_text())
    table = {line["method"]: line for line in read_csv(written / "table.csv") if line["labels"] != "all"}
    for method, title in (("EntropyMin", "EntropyMin, 2 labels"), ("<peer> & co", "<peer> & co")):
        (sentence,) = re.findall(rf"<p>({re.escape(title)}: .*?)</p>", page)
        line = table[method]
        low, high = float(line["low"]), float(line["high"])
        word = "better than" if low > 0 else "worse than" if high < 0 else "no clear difference from"
        pairs = f"{line['pairs']} pair{'' if line['pairs'] == '1' else 's'} of seeds"
        expected = (
            f"{title}: {word} LabeledOnly, 2 labels. Dice {line['Dice']} against {table['LabeledOnly']['Dice']}; "
            f"paired difference {line['difference']}, 95 % interval {line['low']} to {line['high']} ({pairs})."
        )
        assert sentence.startswith(expected)
        assert f"(p {line['p Holm']}, Wilcoxon" in sentence
        gains = gains_by_case(written, method)
        assert f"Of {len(gains)} cases {sum(gain > 0 for gain in gains)} are better" in sentence
        if line["gap closed"]:
            share = re.search(
                r"closes (-?\d+) % of the gap to LabeledOnly with all labels \((-?\d+) to (-?\d+) %\)", sentence
            )
            cells = [float(line[key]) for key in ("gap closed", "gap low", "gap high")]
            assert [int(number) for number in share.groups()] == [round(100 * cell) for cell in cells]
        else:
            assert "of the gap" not in sentence
    assert any(table[method]["gap closed"] for method in table)


def test_costs_are_those_of_the_runs_and_empty_where_one_is_missing(comparison, written):
    baseline, method, *_ = read_csv(written / "table.csv")
    assert [method[key] for key in ("samples", "seconds", "peak MiB", "epochs")] == ["1200", "62", "300", "2"]
    assert baseline["method"] == "LabeledOnly"
    trained = [run.training.cost for run in comparison.results[0].row.runs]
    assert (baseline["samples"] == "") == (None in trained)


def test_refusals_and_warnings_are_on_the_page(comparison, written):
    page = unescape((written / "index.html").read_text())
    (line,) = read_csv(written / "refused.csv")
    assert "it validates on other cases than LabeledOnly" in line["reason"]
    for text in (line["run"], line["reason"], *comparison.warnings):
        assert text in page


def test_worst_cases_of_every_row_are_drawn(comparison, written):
    page = unescape((written / "index.html").read_text())
    for result in comparison.results:
        worst = result.values[:, :, 0, 0].min(axis=0).argmin()
        dice = result.values[:, worst, 0, 0].min()
        assert re.search(rf"<figcaption>{re.escape(result.row.title)}[^<]*: Dice {dice:.3f}</figcaption>", page)


def test_a_folder_that_exists_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    refuse_existing(tmp_path / "out")  # an empty one is fine
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(SemiSupervisedError, match="out exists already; remove it or give another name with -o"):
        refuse_existing(tmp_path / "out")


def test_a_full_disk_leaves_nothing(comparison, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_module, "comparison_page", full)
    with pytest.raises(SemiSupervisedError, match="No space left on device"):
        write_report(comparison, tmp_path / "reports" / "out")
    assert os.listdir(tmp_path / "reports") == []


def test_in_a_browser(written, tmp_path):
    """No request leaves the page, nothing is complained about, it fits 1280 and 400 pixels, and the table sorts."""
    require_browser()
    page = written / "index.html"
    with browser(tmp_path) as tab:
        for width in (1280, 400):
            tab.open(page, width)
            assert_readable(tab, width)
            drawn = "[...document.querySelectorAll('svg.chart text')].filter(t => t.getBoundingClientRect().width > 0)"
            assert tab.evaluate(f"Math.min(...{drawn}.map(t => t.getBoundingClientRect().height))") >= 9
            assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        column = [heading for _, heading, _ in COLUMNS].index("Dice")
        cells = f"[...document.querySelector('table.sortable tbody').rows].map(row => row.cells[{column}].textContent)"
        before = tab.evaluate(cells)
        button = f"document.querySelectorAll('table.sortable')[0].querySelectorAll('th button')[{column}]"
        tab.evaluate(f"{button}.click()")
        assert tab.evaluate(cells) == sorted(before, key=float) != before
        assert tab.evaluate(f"{button}.parentElement.getAttribute('aria-sort')") == "ascending"
        tab.evaluate(f"{button}.click()")
        assert tab.evaluate(cells) == sorted(before, key=float, reverse=True)
        name = "document.querySelector('table.sortable th button')"
        tab.evaluate(f"{name}.click()")
        names = "[...document.querySelector('table.sortable tbody').rows].map(row => row.cells[0].textContent)"
        assert tab.evaluate(names) == tab.evaluate(f"{names}.sort((a, b) => a.localeCompare(b))")
        assert all(url.startswith(("file:", "data:")) for url in tab.requests)
        assert [url for url in tab.requests if url.startswith("file:")] == [page.absolute().as_uri()] * 2
        assert tab.errors == []


def test_a_background_that_cannot_be_read_is_black(comparison, tmp_path):
    drawer = Drawer(comparison)
    (result, *_) = comparison.results
    seed, case = worst_cases(result)[0]
    drawer._images = {comparison.cases[case]: (str(tmp_path / "not there.nii.gz"),)}
    assert drawer.strips(result, seed, case, None)


def test_seeds_that_a_method_lacks_are_not_in_its_sentence(lab):
    """The first of three seeds of the baseline is far better than the other two, and the method has not got it."""
    runs = [lab.run(seed=seed, errors=errors) for seed, errors in ((0, 0.01), (1, 0.5), (2, 0.5))]
    runs += [lab.run("EntropyMin", seed=seed, errors=0.4) for seed in (1, 2)]
    compared = compare(runs, [])
    (sentence,) = re.findall(r"<p>(EntropyMin, 2 labels: .*?)</p>", unescape(comparison_page(compared)))
    ours, theirs, difference = map(float, re.findall(r"(?:Dice|against|difference) ([+-]?[0-9.]+[0-9])", sentence))
    assert ours - theirs == pytest.approx(difference, abs=2e-4)
    assert difference > 0

"""A benchmark whose runs have not all ended well: the report says which failed, and why, and which are missing."""

from dataclasses import replace

from nnunetv2_semisup.evaluation.benchmark.folder import Benchmark, fold_folder, save_benchmark
from nnunetv2_semisup.evaluation.comparison.compare import compare
from nnunetv2_semisup.evaluation.comparison.report import write_report
from tests.evaluation.benchmark.asked import asked


def test_failed_and_unfinished_runs_are_in_the_report(lab, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(lab.copies.parent))
    request = replace(asked(methods=("entropymin", "fixmatch")), name="mixed")
    benchmark = Benchmark(lab.copies.parent / "benchmark", request)
    save_benchmark(benchmark)
    runs = {(run.method, run.labeled): run for run in benchmark.runs}
    for method, name, errors in (("labeledonly", "LabeledOnly", 0.3), ("entropymin", "EntropyMin", 0.2)):
        folder = fold_folder(runs[method, 2])
        folder.parent.mkdir(parents=True)
        lab.run(name, errors=errors).rename(folder)
    benchmark.note_failure(runs["fixmatch", 2], "no space\nleft on device")
    comparison = compare([benchmark.folder], [])
    assert [result.row.title for result in comparison.results] == ["LabeledOnly, 2 labels", "EntropyMin, 2 labels"]
    refused = {line.name: line.reason for line in comparison.refused}
    assert refused == {
        "fixmatch-2_seed0_fold0": "failed: no space left on device",
        "labeledonly-all_seed0_fold0": "is not finished",
    }
    write_report(comparison, lab.copies.parent / "report")
    for file in ("index.html", "refused.csv"):
        text = (lab.copies.parent / "report" / file).read_text()
        assert "fixmatch-2_seed0_fold0" in text
        assert "failed: no space left on device" in text

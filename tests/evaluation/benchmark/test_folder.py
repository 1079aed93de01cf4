"""What a benchmark's folder remembers, and what it refuses."""

import dataclasses
import json

import pytest

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.benchmark.folder import (
    FILE,
    Benchmark,
    is_finished,
    open_benchmark,
    read_benchmark,
    save_benchmark,
)
from tests.evaluation.benchmark.asked import asked, finish

pytestmark = pytest.mark.fast


@pytest.fixture
def results(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))


def asker(**changes):
    return lambda name: asked(name=name, **changes)


def test_it_is_read_as_it_was_saved(tmp_path):
    benchmark = open_benchmark(tmp_path / "b", asker(labeled=(2, "all")))
    assert not benchmark.folder.exists()
    save_benchmark(benchmark)
    assert read_benchmark(tmp_path / "b") == benchmark
    runs = json.loads((tmp_path / "b" / FILE).read_text())["runs"]
    assert [run["name"] for run in runs] == [run.name for run in benchmark.runs]
    assert [run["results"] for run in runs] == [str(run.results) for run in benchmark.runs]


def test_a_renamed_folder_keeps_its_runs(tmp_path):
    save_benchmark(open_benchmark(tmp_path / "b", asker()))
    (tmp_path / "b").rename(tmp_path / "c")
    assert open_benchmark(tmp_path / "c", asker()).request.name == "b"


def test_it_may_grow_and_not_shrink(tmp_path):
    save_benchmark(open_benchmark(tmp_path / "b", asker(seeds=(0, 1))))
    grown = open_benchmark(tmp_path / "b", asker(seeds=(0, 1, 2), labeled=(2, 3)))
    save_benchmark(grown)
    assert read_benchmark(tmp_path / "b") == grown
    with pytest.raises(SemiSupervisedError, match=r"holds a benchmark with .*-2_seed2_fold0 \(\d+ such runs\)"):
        open_benchmark(tmp_path / "b", asker(seeds=(0, 1), labeled=(2, 3)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": ("training.num_epochs=5",)}, r"settings = training.num_epochs=3 .*now it is .*num_epochs=5"),
        ({"first": True}, "first = False"),
        ({"configuration": "2d"}, "configuration = 3d_fullres"),
        ({"dataset": "Dataset902_X"}, "dataset = "),
        ({"plans": "others"}, "plans = nnUNetPlans"),
    ],
)
def test_another_benchmark_is_refused(tmp_path, changes, words):
    save_benchmark(open_benchmark(tmp_path / "b", asker()))
    before = (tmp_path / "b" / FILE).read_text()
    with pytest.raises(SemiSupervisedError, match=f"{words}.*-o DIR"):
        open_benchmark(tmp_path / "b", asker(**changes))
    assert (tmp_path / "b" / FILE).read_text() == before


def test_something_else_is_refused_and_stays(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for folder in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(SemiSupervisedError, match=r"no folder of a benchmark; name another one: -o DIR"):
            open_benchmark(folder, asker())
    with pytest.raises(SemiSupervisedError, match=r"has no benchmark\.json"):
        read_benchmark(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_another_format_is_refused(tmp_path):
    save_benchmark(Benchmark(tmp_path / "b", asked()))
    (tmp_path / "b" / FILE).write_text('{"format": 2}')
    with pytest.raises(SemiSupervisedError, match="not written by this version"):
        open_benchmark(tmp_path / "b", asker())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SemiSupervisedError, match=r"cannot write to .*-o DIR"):
        save_benchmark(Benchmark(tmp_path / "file" / "b", asked()))


def test_status_is_what_nnunet_left_and_a_failure_is_one_line(tmp_path, results):
    benchmark = Benchmark(tmp_path / "b", asked())
    save_benchmark(benchmark)
    run = benchmark.runs[0]
    assert benchmark.status(run) == "unfinished"
    benchmark.note_failure(run, "out of\nluck")
    assert benchmark.status(run) == "failed"
    assert benchmark.failure(run) == "out of luck"
    assert benchmark.failure(benchmark.runs[1]) is None
    finish(benchmark, run)
    assert benchmark.status(run) == "finished"
    assert benchmark.failure(run) is None
    assert not is_finished(dataclasses.replace(run, results=benchmark.runs[1].results))

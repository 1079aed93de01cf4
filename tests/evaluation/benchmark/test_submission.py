"""What SLURM is asked for: a sbatch of ours takes the scripts down. Jobs that really run are in tests/cli."""

import os
from pathlib import Path

import pytest

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.benchmark.submission import (
    PreprocessingJob,
    TrainingJob,
    check_slurm,
    slurm_options,
    submit,
)
from tests.data.copies import copy_of
from tests.evaluation.benchmark.asked import benchmark_in, finish

pytestmark = pytest.mark.fast

SBATCH = """#!/bin/sh
number=$((100 + $(ls "$SCRIPTS" | wc -l)))
cp "$1" "$SCRIPTS/$number.sh"
echo "Submitted batch job $number"
"""
REFUSING = """#!/bin/sh
echo "sbatch: error: invalid partition specified: gpuu" >&2
exit 1
"""


@pytest.fixture
def workspace(toy, tmp_path):
    workspace = copy_of(toy, tmp_path)
    with workspace.active():
        yield workspace


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """The folder of submitted scripts, by number, on a machine with SLURM."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", "#!/bin/sh\n"), ("squeue", "#!/bin/sh\n")):
        put_command(tmp_path, name, text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SCRIPTS", str(folder))
    return folder


def put_command(root: Path, name: str, text: str) -> None:
    (root / "bin").mkdir(exist_ok=True)
    (root / "bin" / name).write_text(text)
    (root / "bin" / name).chmod(0o755)


def options(script: Path) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    return dict(line.partition("=")[::2] for line in lines)


PARAMETERS = ["time=90", "partition=gpu", "cpus-per-task=8", "mem=64GB", "exclusive"]


def test_jobs_stand_in_the_order_of_what_depends_on_what(workspace, scripts):
    benchmark = benchmark_in(workspace.root / "b", seeds=(0, 1))
    assert submit(benchmark, "cuda", 3, slurm_options(PARAMETERS)) == ["100", "101", "102"]
    preprocess, train, compare = (options(scripts / f"{number}.sh") for number in (100, 101, 102))
    assert "dependency" not in preprocess
    assert (train["dependency"], train["kill-on-invalid-dep"]) == ("afterok:100", "yes")
    assert compare["dependency"] == "afterany:101"
    assert train["array"] == "0-7%3"
    assert "array" not in {**preprocess, **compare}
    for job in (preprocess, train, compare):
        wanted = {"time": "90", "partition": "gpu", "cpus-per-task": "8", "mem": "64GB", "gpus-per-node": "1"}
        assert wanted.items() <= job.items()
        assert "exclusive" in job
    setup, _ = (scripts / "101.sh").read_text().split("\nsrun", maxsplit=1)
    assert "\nexport SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK" in setup
    assert [job["job-name"] for job in (preprocess, train, compare)] == ["b-preprocess", "b-train", "b-compare"]


@pytest.mark.parametrize("gpu", ["gres=gpu:a100:1", "gpus=1", "gpus-per-task=1"])
def test_who_asks_for_a_gpu_gets_no_other(workspace, scripts, gpu):
    submit(benchmark_in(workspace.root / "b"), "cuda", None, slurm_options([*PARAMETERS, gpu]))
    assert "gpus-per-node" not in options(scripts / "101.sh")


def test_only_what_is_left_is_submitted(workspace, scripts):
    benchmark = benchmark_in(workspace.root / "b", methods=("labeledonly",), seeds=(0, 1))
    for run in benchmark.runs[:3]:
        finish(benchmark, run)
    assert len(submit(benchmark, "cpu", None, slurm_options(PARAMETERS))) == 2
    train, compare = (options(scripts / f"{number}.sh") for number in (100, 101))
    assert "array" not in train
    assert "gpus-per-node" not in train
    assert compare["dependency"] == "afterany:100"


def test_jobs_in_the_queue_are_not_submitted_twice(workspace, scripts, tmp_path):
    benchmark = benchmark_in(workspace.root / "b")
    check_slurm(benchmark)
    submit(benchmark, "cpu", None, slurm_options(PARAMETERS))
    check_slurm(benchmark)
    put_command(tmp_path, "squeue", '#!/bin/sh\necho "$@" > "$SCRIPTS/asked"\necho 101\necho 101\necho 102\n')
    with pytest.raises(SemiSupervisedError, match=r"in the queue or running: 101 102; .* scancel 101 102"):
        check_slurm(benchmark)
    assert "--jobs=100,101,102" in (scripts / "asked").read_text()


def test_what_sbatch_says_is_passed_on_in_one_line(workspace, scripts, tmp_path):
    put_command(tmp_path, "sbatch", REFUSING)
    with pytest.raises(SemiSupervisedError, match=r"sbatch refused the job: .*invalid partition") as error:
        submit(benchmark_in(workspace.root / "b"), "cpu", None, slurm_options(PARAMETERS))
    assert "\n" not in str(error.value)


def test_a_machine_without_slurm_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SemiSupervisedError, match="--slurm: there is no sbatch on this machine"):
        check_slurm(benchmark_in(tmp_path / "b"))


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["partition=gpu"], "needs the time of a job in minutes"),
        (["time=1-00:00:00"], "needs the time of a job in minutes"),
    ],
)
def test_options_that_cannot_be_are_one_line(texts, words):
    with pytest.raises(SemiSupervisedError, match=words):
        slurm_options(texts)


def test_a_job_that_ran_out_of_time_is_the_same_again(tmp_path):
    for job in (TrainingJob(tmp_path, "mireg-2_seed0_fold0", "cuda"), PreprocessingJob(tmp_path)):
        assert job.checkpoint().function is job

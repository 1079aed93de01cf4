"""The command line of `benchmark`: what it prints, what it refuses. Real trainings: test_benchmark_chain.py."""

import shlex

import pytest

from nnunetv2_semisup.cli.main import build_parser, main
from nnunetv2_semisup.evaluation.benchmark.folder import read_benchmark, save_benchmark
from tests.data.copies import copy_of
from tests.evaluation.benchmark.asked import TINY, benchmark_in, finish, leave_results
from tests.workspace import DATASET

pytestmark = pytest.mark.fast

BENCHMARK = ["benchmark", "-d", "901", "-c", "3d_fullres", "-device", "cpu", "-o", "b"]
WHAT = ["--methods", "mireg", "--labeled", "2", "--seeds", "0"]


@pytest.fixture
def workspace(toy, tmp_path, monkeypatch):
    workspace = copy_of(toy, tmp_path)
    monkeypatch.chdir(tmp_path)
    with workspace.active():
        yield workspace


def dry_run(capsys, *options):
    assert main([*BENCHMARK, *WHAT, "--set", *TINY, "--dry-run", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [line for line in lines if line and not line.startswith("#")], [line for line in lines if line[:1] == "#"]


def test_a_dry_run_prints_the_commands_in_order_and_writes_nothing(workspace, capsys):
    before = sorted(workspace.root.rglob("*"))
    commands, comments = dry_run(capsys)
    assert sorted(workspace.root.rglob("*")) == before
    names = ("labeledonly-2", "mireg-2", "labeledonly-all")
    plan = "nnUNetv2_semisup plan -d 901 -m {method} -p nnUNetPlans -o nnUNetPlans_b_{name}_seed0 --set {settings}"
    settings = {name: " ".join([*TINY, "training.seed=0", "data.split=labeled2_seed0"]) for name in names}
    settings["labeledonly-all"] = " ".join([*TINY, "training.seed=0"])
    results = workspace.root / "results" / DATASET
    trainers = {"labeledonly-2": "LabeledOnly", "mireg-2": "MIReg", "labeledonly-all": "LabeledOnly"}
    folds = [str(results / f"nnUNetTrainer{trainers[name]}__nnUNetPlans_b_{name}_seed0__3d_fullres" / "fold_0")
             for name in names]  # fmt: skip
    assert commands == [
        "nnUNetv2_semisup preprocess -d 901 -c 3d_fullres -p nnUNetPlans --training",
        "nnUNetv2_semisup split -d 901 -f 0 --labeled 2 --seed 0 -o labeled2_seed0",
        *(plan.format(method=name.split("-")[0], name=name, settings=settings[name]) for name in names),
        *(f"nnUNetv2_train 901 3d_fullres 0 -tr nnUNetTrainer{trainers[name]} -p nnUNetPlans_b_{name}_seed0 -device cpu"
          for name in names),
        f"nnUNetv2_semisup compare {' '.join(folds)} -o b/comparison",
    ]  # fmt: skip
    for command in commands:
        program, *arguments = shlex.split(command)
        if program == "nnUNetv2_semisup":
            build_parser().parse_args(arguments)
    assert comments[0] == "# 3 trainings, 0 of them finished."
    # Epoch 0 of 3 warms up; in the others teacher and student see as many patches more as stock's batch has.
    assert [line.split()[1:4] for line in comments[-4:-1]] == [
        ["labeledonly-2_seed0_fold0", "1.00x", "6"],
        ["mireg-2_seed0_fold0", "2.33x", "14"],
        ["labeledonly-all_seed0_fold0", "1.00x", "6"],
    ]
    assert comments[-1].split()[1:6] == ["left", "to", "do", "1.44x", "26"]


def test_what_has_begun_is_seen_by_a_dry_run(workspace, capsys):
    benchmark = benchmark_in(workspace.root / "b", methods=("mireg",))
    finish(benchmark, benchmark.runs[0])
    leave_results(benchmark, benchmark.runs[1], "checkpoint_best.pth")
    leave_results(benchmark, benchmark.runs[2], "checkpoint_final.pth", "checkpoint_latest.pth")
    commands, comments = dry_run(capsys)
    trainings = [command for command in commands if command.startswith("nnUNetv2_train")]
    assert [command.split()[-1] for command in trainings] == ["--c", "--val"]
    assert comments[0] == "# 3 trainings, 1 of them finished."
    assert comments[-4].endswith("finished")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--methods", "meanstudent"], "there is no method 'meanstudent'; known are:"),
        (["--labeled", "5"], "--labeled 5: fold 0 has 4 training cases"),
        (["--seeds", "1", "1"], "--seeds names 1 twice"),
        (["-d", "902"], "902"),
        (["-p", "others"], "there are no plans"),
        (["--set", "training.num_epoch=2"], "none of the methods has this setting"),
        (["-device", "cuda", "-np", "99"], "-device cuda: there is no CUDA device; type -device cpu"),
        (["--slurm", "partition=gpu"], "--slurm needs the time of a job in minutes"),
        (["--slurm", "time=60"], "--slurm: there is no sbatch on this machine"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(workspace, capsys, monkeypatch, options, words):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    before = sorted(workspace.root.rglob("*"))
    assert main([*BENCHMARK, *WHAT, *options]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert sorted(workspace.root.rglob("*")) == before


def test_the_folder_of_something_else_is_refused(workspace, capsys):
    (workspace.root / "b").mkdir()
    (workspace.root / "b" / "thesis.txt").touch()
    assert main([*BENCHMARK, *WHAT]) == 1
    assert "b exists and is no folder of a benchmark; name another one: -o DIR" in capsys.readouterr().err
    (workspace.root / "b" / "thesis.txt").unlink()
    save_benchmark(benchmark_in(workspace.root / "b", methods=("mireg",), settings=()))
    assert main([*BENCHMARK, *WHAT, "--set", *TINY]) == 1
    assert "holds a benchmark with settings = none" in capsys.readouterr().err
    assert read_benchmark(workspace.root / "b").request.settings == ()


@pytest.mark.parametrize(
    "options", [["--labeled", "0"], ["--labeled", "some"], ["--folds", "all"], ["--seeds", "-1"], ["-np", "0"]]
)
def test_wrong_usage_is_status_2(workspace, capsys, options):
    with pytest.raises(SystemExit) as error:
        main([*BENCHMARK, *WHAT, *options])
    assert error.value.code == 2
    assert options[0] in capsys.readouterr().err

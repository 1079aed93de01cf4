"""The command line of `sparsify`; what it makes is tested in tests/data."""

import pytest

from nnunetv2_semisup.cli.main import main
from nnunetv2_semisup.data.synthetic import make_dataset

pytestmark = pytest.mark.fast


@pytest.fixture
def labels(tmp_path):
    make_dataset(tmp_path / "raw", n_labeled=2, n_unlabeled=0, n_test=0, shape=(16, 24, 24), seed=3)
    return tmp_path / "raw" / "labelsTr"


def sparsify(labels, *options, mode="scribbles", budget="0.02"):
    target = labels.parents[1] / "sparse"
    return main(["sparsify", "-i", str(labels), "-o", str(target), "--mode", mode, "--budget", budget, *options])


@pytest.mark.parametrize("mode", ["slices", "scribbles", "points", "erosion"])
def test_a_folder_is_written_and_what_is_left_is_printed(labels, tmp_path, capsys, mode):
    assert sparsify(labels, "--seed", "3", "-np", "1", mode=mode, budget="0.1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["case", "class", "annotated", "of", "share", "size", "[mm3]"]
    assert [line.split()[0] for line in lines[1:9]] == ["labeled_000", "labeled_001", *["all"] * 6]
    if mode != "slices":
        assert lines[1].split()[1:4] == ["5", "of", "5"]
    assert int(lines[3].split()[2]) == sum(int(line.split()[4]) for line in lines[1:3])
    assert f"{tmp_path / 'sparse' / 'annotated.csv'} has every class of every case" in lines[9]
    assert '"ignore": 5' in lines[10]
    assert (tmp_path / "sparse" / "labeled_001.nii.gz").is_file()


def test_foreground_only(labels, tmp_path, capsys):
    assert sparsify(labels, "--foreground-only", "-np", "1") == 0
    background = next(line for line in capsys.readouterr().out.splitlines() if "background" in line)
    assert background.split()[3] == "0"


def test_what_cannot_be_is_one_line(labels, tmp_path, capsys):
    assert sparsify(labels, "-np", "1", mode="slices", budget="0.01") == 1
    error = capsys.readouterr().err
    assert "labeled_000.nii.gz: the budget is less than one slice; type --budget 0.063 or more" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "sparse").exists()


@pytest.mark.parametrize("budget", ["0", "1", "-0.1", "1.5", "nan", "x"])
def test_a_budget_is_a_share(labels, capsys, budget):
    with pytest.raises(SystemExit) as error:
        sparsify(labels, f"--budget={budget}")
    assert error.value.code == 2
    assert "is not a share between 0 and 1" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--mode", "lines"], ["--seed", "-1"], ["-np", "0"]])
def test_wrong_usage_is_status_2(labels, options):
    with pytest.raises(SystemExit) as error:
        sparsify(labels, *options)
    assert error.value.code == 2

"""The command line of `preprocess`: its flags, its lines, its exit status. What it does is tested in tests/data."""

import shutil

import pytest

from nnunetv2_semisup.cli.main import main
from nnunetv2_semisup.data.manifest import read_manifest
from tests.data.copies import DATA_IDENTIFIER, UNLABELED, copy_of, noise, raw_folder, write_image

pytestmark = pytest.mark.fast
PREPROCESS = ["preprocess", "-d", "901", "-c", "3d_fullres", "-np", "1"]


@pytest.fixture
def workspace(toy, tmp_path):
    workspace = copy_of(toy, tmp_path)
    with workspace.active():
        yield workspace


def assert_one_line(capsys, *parts):
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("nnUNetv2_semisup: error: ")
    for part in parts:
        assert part in captured.err


def test_every_folder_counts_and_a_refused_case_is_status_1(workspace, tmp_path, capfd):
    folders = [tmp_path / name for name in ("one", "two", "three ü")]
    for index, folder in enumerate(folders):
        folder.mkdir()
        write_image(folder / f"case {index}_0000.nii.gz", noise(index))
    one, two, three = map(str, folders)
    assert main([*PREPROCESS, "-i", one, two, "-i", three]) == 0
    captured = capfd.readouterr()
    assert "3 cases made, 0 finished before, 0 refused" in captured.out
    assert captured.err == ""
    manifest = read_manifest(workspace.dataset_folder, DATA_IDENTIFIER)
    assert manifest.done("unlabelled") == ["case 0", "case 1", "case 2", *(f"unlabeled_{i:03d}" for i in range(3))]

    bad = folders[0] / "cut_0000.nii.gz"
    bad.write_bytes((folders[0] / "case 0_0000.nii.gz").read_bytes()[:-100])
    (folders[0] / "nameless.nii.gz").write_bytes(b"x")
    assert main([*PREPROCESS, "-i", one]) == 1
    captured = capfd.readouterr()
    assert "0 cases made, 1 finished before, 2 refused" in captured.out
    lines = captured.err.splitlines()
    assert len(lines) == 3
    assert "nameless.nii.gz" in lines[0]
    assert str(bad) in lines[1]
    assert "truncated" in lines[1]
    assert "others are ready" in lines[2]


def test_finished_work_costs_no_process(workspace, capfd):
    assert main([*PREPROCESS, "--training"]) == 0
    assert "0 cases made, 8 finished before, 0 refused" in capfd.readouterr().out


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed"])
def test_unset_and_wrong_variables_say_what_to_type(workspace, monkeypatch, capsys, variable):
    monkeypatch.delenv(variable)
    assert main(PREPROCESS) == 1
    assert_one_line(capsys, f"{variable} is not set; type: export {variable}=FOLDER")
    monkeypatch.setenv(variable, "/nowhere")
    assert main(PREPROCESS) == 1
    assert_one_line(capsys, variable, "/nowhere")


def test_unknown_dataset_plans_and_configuration_say_what_to_type(workspace, capsys):
    assert main(["preprocess", "-d", "902", "-c", "3d_fullres"]) == 1
    assert_one_line(capsys, "902")
    assert main(["preprocess", "-d", "abc", "-c", "3d_fullres"]) == 1
    assert_one_line(capsys, "abc")
    assert main(["preprocess", "-d", "Dataset902_X", "-c", "3d_fullres"]) == 1
    assert_one_line(capsys, "type: nnUNetv2_plan_and_preprocess -d 902")
    assert main([*PREPROCESS, "-p", "other"]) == 1
    assert_one_line(capsys, "other.json", "type: nnUNetv2_plan_and_preprocess -d 901")
    assert main(["preprocess", "-d", "901", "-c", "3d_other"]) == 1
    assert_one_line(capsys, "no configuration 3d_other", "3d_fullres")
    (workspace.dataset_folder / "dataset.json").unlink()
    assert main(PREPROCESS) == 1
    assert_one_line(capsys, "dataset.json is missing")


def test_missing_and_empty_folders_say_what_to_type(workspace, tmp_path, capsys):
    assert main([*PREPROCESS, "-i", str(tmp_path / "nowhere")]) == 1
    assert_one_line(capsys, "nowhere", "-i")
    (tmp_path / "empty").mkdir()
    assert main([*PREPROCESS, "-i", str(tmp_path / "empty")]) == 1
    assert_one_line(capsys, "empty holds no image", "CASE_0000.nii.gz")
    shutil.rmtree(raw_folder(workspace))
    assert main(PREPROCESS) == 1
    assert_one_line(capsys, "imagesUn")


@pytest.mark.parametrize(
    "options", [["-np", "0"], ["-np", "x"], ["--part", "0/2"], ["--part", "3/2"], ["--part", "2"], ["--bad"]]
)
def test_wrong_usage_is_status_2(workspace, capsys, options):
    with pytest.raises(SystemExit) as error:
        main([*PREPROCESS, *options])
    assert error.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_nothing_is_written_by_what_is_refused(workspace, capsys, tmp_path):
    before = sorted(path.name for path in workspace.dataset_folder.rglob("*"))
    for options in (["-p", "other"], ["-i", str(tmp_path / "nowhere")]):
        assert main([*PREPROCESS, *options]) == 1
    assert sorted(path.name for path in workspace.dataset_folder.rglob("*")) == before
    assert (workspace.dataset_folder / UNLABELED).is_dir()

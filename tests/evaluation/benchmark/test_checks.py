"""Bad input is found before anything is written."""

import json

import pytest

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.benchmark.checks import check_request, check_results
from tests.data.copies import copy_of, raw_folder
from tests.evaluation.benchmark.asked import asked, benchmark_in, finish, leave_results

pytestmark = pytest.mark.fast


@pytest.fixture
def workspace(toy, tmp_path):
    workspace = copy_of(toy, tmp_path)
    with workspace.active():
        yield workspace


def test_what_is_asked_for_is_accepted_and_nothing_is_written(workspace):
    before = sorted(workspace.root.rglob("*"))
    check_request(asked(labeled=(1, 3, "all"), folds=(0, 4)), "cpu")
    assert sorted(workspace.root.rglob("*")) == before


def test_what_stock_has_not_preprocessed_is_refused_before_anything_is_written(workspace):
    (folder,) = workspace.dataset_folder.glob("nnUNetPlans_3d_fullres")
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(SemiSupervisedError, match="holds no labelled case; type: nnUNetv2_preprocess"):
        check_request(asked(methods=("labeledonly",)), "cpu")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ("mireg", "meanstudent")}, "no method 'meanstudent'; known are: .*labeledonly, .*mireg"),
        ({"methods": ("mireg", "mireg")}, "--methods names mireg twice"),
        ({"seeds": (1, 1)}, "--seeds names 1 twice"),
        ({"labeled": (2, 2)}, "--labeled names 2 twice"),
        ({"folds": (0, 0)}, "--folds names 0 twice"),
        ({"labeled": (2, 5)}, "--labeled 5: fold 0 has 4 training cases; ask for at most 3, or .*--labeled all"),
        ({"labeled": (4,)}, "--labeled 4: fold 0 has 4 training cases"),
        (
            {"methods": ("bimpretrain",)},
            "bimpretrain learns no segmentation, .* nnUNetv2_semisup compare --allow-different initial_weights",
        ),
        ({"folds": (5,)}, "-f 5: .* has the folds 0 to 4"),
        ({"plans": "others"}, "there are no plans"),
        ({"configuration": "3d"}, "no configuration 3d"),
        ({"configuration": "3d_cascade_fullres"}, "mireg: 3d_cascade_fullres is the second stage"),
        ({"settings": ("training.seed=3",)}, "--set training.seed: .* use --seeds"),
        ({"settings": ("data.split=mine",)}, "--set data.split: .* use --labeled"),
        ({"settings": ("training.num_epoch=3",)}, "training.num_epoch: none of the methods has this setting; known"),
        ({"settings": ("consistency.weight=3",), "methods": ("entropymin",)}, "none of the methods has this setting"),
        ({"settings": ("training.num_epochs=0",)}, "training.num_epochs = 0 is not allowed; allowed is an integer"),
        ({"settings": ("mi.weight=-1",)}, "--set: mi.weight = -1 is not allowed"),
        ({"settings": ("mi.taps=[-9]", "mi.shares=[1]")}, "mireg: mi.taps: -9 is not allowed"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(workspace, changes, words):
    before = sorted(workspace.root.rglob("*"))
    with pytest.raises(SemiSupervisedError, match=words) as error:
        check_request(asked(**changes), "cpu")
    assert "\n" not in str(error.value)
    assert sorted(workspace.root.rglob("*")) == before


def test_all_labels_need_images_of_others(workspace):
    for file in raw_folder(workspace).iterdir():
        file.unlink()
    check_request(asked(labeled=("all",)), "cpu")
    manifest = workspace.dataset_folder / "nnUNetPlans_3d_fullres_unlabeled.json"
    content = json.loads(manifest.read_text())
    content["cases"] = {name: case for name, case in content["cases"].items() if case["origin"] == "training"}
    manifest.write_text(json.dumps(content))
    with pytest.raises(SemiSupervisedError, match=r"--labeled all: .* there are no others; put images into .*imagesUn"):
        check_request(asked(labeled=("all",)), "cpu")
    check_request(asked(labeled=("all",), methods=("labeledonly",)), "cpu")


def test_results_of_other_settings_are_not_taken_up(workspace):
    benchmark = benchmark_in(workspace.root / "b")
    check_results(benchmark)
    finish(benchmark, benchmark.runs[0])
    check_results(benchmark)
    leave_results(benchmark_in(workspace.root / "b", settings=("training.num_epochs=9",)), benchmark.runs[1])
    with pytest.raises(SemiSupervisedError, match=r"was trained with other settings than mireg-2_seed0_fold0"):
        check_results(benchmark)

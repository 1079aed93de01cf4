import copy
import json
from dataclasses import replace

import pytest

from nnunetv2_semisup.data.case_preprocessing import CONSTANT
from nnunetv2_semisup.data.manifest import manifest_file, read_manifest, write_cases
from nnunetv2_semisup.data.selection import RunCases, select_cases, select_images
from nnunetv2_semisup.errors import SemiSupervisedError
from tests.data.copies import DATA_IDENTIFIER, UNLABELED, copy_of

pytestmark = pytest.mark.fast
LABELED = tuple(f"labeled_{index:03d}" for index in range(5))
OURS = tuple(f"unlabeled_{index:03d}" for index in range(3))
SPLIT = {"labeled": [LABELED[1], LABELED[0]], "unlabeled": [LABELED[2], LABELED[3]], "val": [LABELED[4]]}


@pytest.fixture
def workspace(toy, tmp_path):
    workspace = copy_of(toy, tmp_path)
    put_split(workspace, {"0": SPLIT})
    return workspace


def put_split(workspace, content, name="mine"):
    (workspace.dataset_folder / f"splits_{name}.json").write_text(json.dumps(content))


def change_cases(workspace, change):
    """Let `change` edit the dictionary of cases in the manifest."""
    cases = dict(read_manifest(workspace.dataset_folder, DATA_IDENTIFIER).cases)
    change(cases)
    write_cases(cases, manifest_file(workspace.dataset_folder, DATA_IDENTIFIER))


def make_equal(workspace, case, twin, **changes):
    """Give a case the voxels of another."""
    change_cases(workspace, lambda cases: cases.update(
        {case: replace(cases[case], voxel_hash=cases[twin].voxel_hash, **changes)}
    ))  # fmt: skip


def select(workspace, *, split="mine", fold=0, need_unlabeled=True, plans=None, configuration="3d_fullres"):
    plans = plans or workspace.plans()
    return select_cases(workspace.dataset_folder, plans, configuration, fold, split, need_unlabeled)


def assert_refused(workspace, pattern, **options):
    with pytest.raises(SemiSupervisedError, match=pattern) as error:
        select(workspace, **options)
    assert "\n" not in str(error.value)


def test_without_a_split_every_unlabelled_case_takes_part(workspace):
    assert select(workspace, split=None) == RunCases(None, None, OURS)
    assert select(workspace, split=None, fold="all") == RunCases(None, None, OURS)


def test_a_split_adds_its_unlabelled_training_cases(workspace):
    assert select(workspace) == RunCases(LABELED[:2], LABELED[4:], (*LABELED[2:4], *OURS))


def test_methods_that_need_no_unlabelled_case_look_for_none(workspace):
    manifest_file(workspace.dataset_folder, DATA_IDENTIFIER).write_text("no manifest")
    assert select(workspace, need_unlabeled=False) == RunCases(LABELED[:2], LABELED[4:], ())
    assert select(workspace, need_unlabeled=False, split=None) == RunCases(None, None, ())


def test_plans_that_share_the_data_share_the_cases(workspace):
    plans = workspace.plans() | {"plans_name": "nnUNetPlans_mireg", "semisup": {}}
    plans["configurations"]["3d_fullres"]["patch_size"] = [8, 8, 8]
    assert select(workspace, plans=plans) == select(workspace)


def test_no_unlabelled_case_at_all_says_what_to_type(workspace):
    change_cases(workspace, dict.clear)
    put_split(workspace, {"0": SPLIT | {"unlabeled": []}})
    command = r"type: nnUNetv2_semisup preprocess -d 901 -c 3d_fullres$"
    assert_refused(workspace, command, split=None)
    assert_refused(workspace, command)
    manifest_file(workspace.dataset_folder, DATA_IDENTIFIER).unlink()
    assert_refused(workspace, command, split=None)
    plans = workspace.plans() | {"plans_name": "mine"}
    assert_refused(workspace, r"preprocess -d 901 -c 3d_fullres -p mine$", split=None, plans=plans)


def test_missing_copies_of_training_cases_say_what_to_type(workspace):
    change_cases(workspace, lambda cases: cases.pop(LABELED[3]))
    assert_refused(workspace, rf"{LABELED[3]} .*1 such.* type: nnUNetv2_semisup preprocess .* --training$")
    assert select(workspace, split=None).unlabeled == OURS


def test_refused_cases_stay_away_and_pending_ones_stop_the_run(workspace):
    def set_status(status):
        change_cases(workspace, lambda cases: cases.update({OURS[0]: replace(cases[OURS[0]], status=status)}))

    set_status("refused")
    assert select(workspace, split=None).unlabeled == OURS[1:]
    set_status("pending")
    assert_refused(workspace, rf"interrupted, 1 unlabelled cases are missing, {OURS[0]} first")


def test_a_missing_part_of_a_job_array_stops_the_run(workspace):
    write_cases({}, manifest_file(workspace.dataset_folder, DATA_IDENTIFIER, (2, 3)))
    assert_refused(workspace, r"part 1 of 3 .*type: .* --part 1/3$")


def test_data_of_other_plans_is_refused(workspace):
    plans = copy.deepcopy(workspace.plans())
    plans["foreground_intensity_properties_per_channel"]["0"]["mean"] += 1
    assert_refused(workspace, r"other plans; type: .* --overwrite$", plans=plans)
    assert_refused(workspace, r"other plans", plans=plans, split=None)


@pytest.mark.parametrize("suffix", [".b2nd", "_seg.b2nd", ".pkl"])
def test_a_case_whose_files_are_gone_is_refused(workspace, suffix):
    (workspace.dataset_folder / UNLABELED / f"{OURS[1]}{suffix}").unlink()
    assert_refused(workspace, rf"{OURS[1]} is not in .*; type: nnUNetv2_semisup preprocess")


@pytest.mark.parametrize("side", ["labeled", "unlabeled", "val"])
@pytest.mark.parametrize("case", ["nobody", OURS[0]])
def test_split_files_may_name_training_cases_only(workspace, side, case):
    put_split(workspace, {"0": SPLIT | {side: [*SPLIT[side], case]}})
    assert_refused(workspace, rf"splits_mine\.json names {case}, which is no case")


def test_a_split_file_without_the_fold_is_refused(workspace):
    assert_refused(workspace, r"has no fold 1; type: nnUNetv2_semisup split -d 901 -f 1", fold=1)
    assert_refused(workspace, r"has no fold all; type: nnUNetv2_semisup split -d 901 -f all", fold="all")
    assert_refused(workspace, r"no split file .*; type: nnUNetv2_semisup split .* -o other", split="other")


def test_a_case_on_both_sides_is_refused(workspace):
    put_split(workspace, {"0": SPLIT | {"val": [LABELED[4], LABELED[2]]}})
    assert_refused(workspace, rf"{LABELED[2]} is in unlabeled and in val")


def test_a_labelled_case_among_the_unlabelled_is_refused(workspace):
    change_cases(workspace, lambda cases: cases.update({LABELED[0]: replace(cases[LABELED[0]], origin="unlabelled")}))
    assert_refused(workspace, rf"{LABELED[0]} is a labelled case", split=None)


@pytest.mark.parametrize("twin", [LABELED[0], LABELED[2], LABELED[4], OURS[1]])
def test_an_unlabelled_case_with_the_voxels_of_another_is_refused(workspace, twin):
    make_equal(workspace, OURS[2], twin)
    assert_refused(workspace, rf"the unlabelled case {OURS[2]} has the voxels of {twin}; delete its image")


@pytest.mark.parametrize("twin", [LABELED[0], LABELED[4]])
def test_a_hidden_training_case_with_the_voxels_of_another_side_is_to_be_moved(workspace, twin):
    make_equal(workspace, LABELED[2], twin)
    assert_refused(workspace, rf"{LABELED[2]} and {twin} have the same voxels .*move one of the two in .*mine\.json$")


def test_hidden_training_cases_may_equal_each_other_and_constant_images_anything(workspace):
    before = select(workspace)
    make_equal(workspace, LABELED[2], LABELED[3])
    assert select(workspace) == before
    make_equal(workspace, LABELED[2], LABELED[0], note=f"odd; {CONSTANT}")
    assert select(workspace) == before


@pytest.mark.parametrize(("split", "file"), [("mine", "splits_mine"), (None, "splits_final")])
def test_a_run_without_labels_may_see_equal_images_but_none_that_equals_a_validation_case(workspace, split, file):
    arguments = (workspace.dataset_folder, workspace.plans(), "3d_fullres", 0, split, True)
    before = select_images(*arguments)
    first, second, *_ = (case for case in before.unlabeled if case in LABELED)
    make_equal(workspace, first, second)
    make_equal(workspace, OURS[2], second)
    assert select_images(*arguments) == before
    make_equal(workspace, first, before.val[0])
    with pytest.raises(SemiSupervisedError, match=rf"{before.val[0]} have the same voxels .* in .*{file}\.json$"):
        select_images(*arguments)


def test_no_labelled_case_and_no_configuration_say_what_to_type(workspace):
    assert_refused(workspace, r"no configuration 3d_other; choose -c from: .*3d_fullres", configuration="3d_other")
    for file in (workspace.dataset_folder / DATA_IDENTIFIER).iterdir():
        file.unlink()
    assert_refused(workspace, r"no labelled case; type: nnUNetv2_preprocess -d 901 -c 3d_fullres$", split=None)

import copy
import json
from dataclasses import replace

import pytest

from nnunetv2_semisup.data.manifest import (
    Case,
    manifest_file,
    preprocessing_hash,
    read_manifest,
    unlabeled_folder,
    write_cases,
)
from nnunetv2_semisup.errors import SemiSupervisedError

pytestmark = pytest.mark.fast
CASE = Case(
    source=("/raw/a_0000.nii.gz",), origin="unlabelled", size=7, modified=1.5, preprocessing_hash="h", status="done",
    note="", content_hash="c", voxel_hash="v", spacing=(3.0, 1.0, 1.0), shape=(1, 4, 5, 6),
)  # fmt: skip
PENDING = Case(source=("/raw/a_0000.nii.gz",), origin="unlabelled", size=7, modified=1.5, preprocessing_hash="h")
PLANS = {
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0, "std": 2.0}},
    "configurations": {
        "2d": {"data_identifier": "x"},
        "3d_fullres": {
            "data_identifier": "nnUNetPlans_3d_fullres",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [8, 8, 8],
            "spacing": [3.0, 1.0, 1.0],
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": {"is_seg": False, "order": 3},
            "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1},
            "architecture": {},
        },
    },
}


def test_what_is_written_is_read(tmp_path):
    cases = {"b ü": CASE, "a": replace(PENDING, origin="training")}
    write_cases(cases, manifest_file(tmp_path, "d"))
    manifest = read_manifest(tmp_path, "d")
    assert manifest.cases == cases
    assert manifest.done("unlabelled") == ["b ü"]
    assert manifest.done("training") == []
    assert unlabeled_folder(tmp_path, "d") == tmp_path / "d_unlabeled"
    assert [file.name for file in tmp_path.iterdir()] == ["d_unlabeled.json"]


def test_nothing_preprocessed_is_an_empty_manifest(tmp_path):
    assert read_manifest(tmp_path, "d").cases == {}


def test_parts_are_newer_than_the_whole_and_finished_beats_unfinished(tmp_path):
    newer = replace(CASE, content_hash="newer")
    write_cases({"a": CASE, "b": CASE}, manifest_file(tmp_path, "d"))
    write_cases({"a": newer, "c": PENDING}, manifest_file(tmp_path, "d", (1, 3)))
    write_cases({"a": PENDING, "c": CASE}, manifest_file(tmp_path, "d", (3, 3)))
    manifest = read_manifest(tmp_path, "d")
    assert manifest.cases == {"a": newer, "b": CASE, "c": CASE}
    assert manifest.missing_parts == ((2, 3),)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 1, "cases": {"a": {"origin": "x"}}}'])
def test_a_file_that_is_no_manifest_is_named(tmp_path, text):
    manifest_file(tmp_path, "d").write_text(text)
    with pytest.raises(SemiSupervisedError, match=r"d_unlabeled\.json"):
        read_manifest(tmp_path, "d")


def test_a_manifest_of_another_format_is_refused(tmp_path):
    manifest_file(tmp_path, "d").write_text(json.dumps({"format": 2, "cases": {}}))
    with pytest.raises(SemiSupervisedError, match="another version"):
        read_manifest(tmp_path, "d")


CHANGES_VOXELS = {
    "spacing": [2.0, 1.0, 1.0],
    "preprocessor_name": "Other",
    "normalization_schemes": ["ZScoreNormalization"],
    "use_mask_for_norm": [True],
    "resampling_fn_data": "resample_torch_fornnunet",
    "resampling_fn_seg": "resample_torch_fornnunet",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 1},
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 0},
}


@pytest.mark.parametrize("key", CHANGES_VOXELS)
def test_hash_follows_the_settings_of_the_configuration(key):
    other = copy.deepcopy(PLANS)
    other["configurations"]["3d_fullres"][key] = CHANGES_VOXELS[key]
    assert preprocessing_hash(other, "3d_fullres") != preprocessing_hash(PLANS, "3d_fullres")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_reader_writer", "NibabelIO"),
        ("transpose_forward", [1, 0, 2]),
        ("foreground_intensity_properties_per_channel", {"0": {"mean": 1.0, "std": 2.5}}),
    ],
)
def test_hash_follows_the_settings_of_the_dataset(key, value):
    assert preprocessing_hash(PLANS | {key: value}, "3d_fullres") != preprocessing_hash(PLANS, "3d_fullres")


def test_hash_ignores_what_leaves_voxels_alone_and_sees_through_inheritance():
    other = copy.deepcopy(PLANS) | {"plans_name": "nnUNetPlans_mireg", "semisup": {"a": 1}}
    other["configurations"]["3d_fullres"] |= {"patch_size": [4, 4, 4], "batch_size": 9, "architecture": {"n": 1}}
    other["configurations"]["mine"] = {"inherits_from": "3d_fullres"}
    expected = preprocessing_hash(PLANS, "3d_fullres")
    assert preprocessing_hash(other, "3d_fullres") == expected
    assert preprocessing_hash(other, "mine") == expected

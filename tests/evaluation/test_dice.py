import json

import numpy as np
import pytest
import SimpleITK

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.dice import DiceScores, folder_dice

pytestmark = pytest.mark.fast


def write(path, voxels):
    path.parent.mkdir(exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.asarray(voxels, np.uint8)), str(path))


@pytest.fixture
def dataset_json(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": {"background": 0, "organ": 1, "lesion": 2}, "file_ending": ".nii.gz"}))
    return path


def test_closed_form(tmp_path, dataset_json):
    truth, prediction = np.zeros((4, 4, 4)), np.zeros((4, 4, 4))
    truth[:2], prediction[1:3] = 1, 1  # 32 voxels each, 16 in common: Dice 1/2
    write(tmp_path / "truth" / "a.nii.gz", truth)
    write(tmp_path / "prediction" / "a.nii.gz", prediction)
    truth[3, 0, 0] = 2  # one voxel of lesion, missed: Dice 0
    write(tmp_path / "truth" / "b.nii.gz", truth)
    write(tmp_path / "prediction" / "b.nii.gz", truth * (truth == 1))
    scores = folder_dice(tmp_path / "prediction", tmp_path / "truth", dataset_json, num_processes=1)
    assert scores.cases == ("a", "b")
    assert scores.labels == ("organ", "lesion")
    np.testing.assert_allclose(scores.values, [[0.5, np.nan], [1.0, 0.0]])
    np.testing.assert_allclose(scores.per_label, [0.75, 0.0])
    np.testing.assert_allclose(scores.per_case, [0.5, 0.5])
    assert scores.foreground_mean == pytest.approx(0.375)


def test_regions_and_ignore_label(tmp_path):
    dataset_json = tmp_path / "dataset.json"
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    dataset_json.write_text(json.dumps({"labels": labels, "regions_class_order": [1, 2], "file_ending": ".nii.gz"}))
    write(tmp_path / "truth" / "a.nii.gz", [[[1, 1, 2, 2, 3, 0]]])
    write(tmp_path / "prediction" / "a.nii.gz", [[[1, 2, 2, 0, 1, 0]]])
    scores = folder_dice(tmp_path / "prediction", tmp_path / "truth", dataset_json, num_processes=1)
    assert scores.labels == ("whole", "core")
    np.testing.assert_allclose(scores.values, [[2 * 3 / (4 + 3), 2 * 1 / (2 + 2)]])


def test_a_structure_that_no_case_shows_does_not_count():
    scores = DiceScores(("a",), ("organ", "absent"), np.array([[0.8, np.nan]]))
    assert scores.foreground_mean == pytest.approx(0.8)
    assert np.isnan(scores.per_label[1])


@pytest.mark.parametrize("side", ["truth", "prediction"])
def test_case_in_one_folder_only_is_refused(tmp_path, dataset_json, side):
    for folder in ("truth", "prediction"):
        write(tmp_path / folder / "a.nii.gz", np.zeros((2, 2, 2)))
    write(tmp_path / side / "b.nii.gz", np.zeros((2, 2, 2)))
    with pytest.raises(SemiSupervisedError, match=r"lacks 1 .* b.nii.gz"):
        folder_dice(tmp_path / "prediction", tmp_path / "truth", dataset_json)


def test_empty_truth_folder_is_refused(tmp_path, dataset_json):
    (tmp_path / "truth").mkdir()
    with pytest.raises(SemiSupervisedError, match=r"no \*.nii.gz"):
        folder_dice(tmp_path / "truth", tmp_path / "truth", dataset_json)

"""One case against its truth, in files that nnU-Net's readers wrote."""

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunetv2_semisup.evaluation.comparison.scoring import CaseScorer, Task
from nnunetv2_semisup.evaluation.comparison.structures import Structures

pytestmark = pytest.mark.fast


def test_a_tiff_is_measured_in_the_spacing_of_the_prediction(tmp_path):
    """In gt_segmentations nnU-Net leaves no spacing beside it."""
    truth, prediction = tmp_path / "truth", tmp_path / "prediction"
    for folder, start in ((truth, 2), (prediction, 3)):
        folder.mkdir()
        labels = np.zeros((8, 8, 8), np.uint8)
        labels[start : start + 3, 2:6, 2:6] = 1
        Tiff3DIO().write_seg(labels, str(folder / "case.tif"), {"spacing": (4.0, 1.0, 1.0)})
    (truth / "case.json").unlink()
    structures = Structures.of({"labels": {"background": 0, "a": 1}})
    result = CaseScorer("Tiff3DIO", structures)(Task("case", truth / "case.tif", (prediction,)))
    assert (result.error, result.faults) == ("", {})
    ((dice, _, hausdorff, *_),) = result.scores[prediction]
    assert dice == pytest.approx(2 / 3)
    assert hausdorff == pytest.approx(4)
    (truth / "case.json").write_text('{"spacing": [2, 1, 1]}')
    (fault,) = CaseScorer("Tiff3DIO", structures)(Task("case", truth / "case.tif", (prediction,))).faults.values()
    assert "has another geometry than the truth: spacing" in fault
    (prediction / "case.json").unlink()
    (fault,) = CaseScorer("Tiff3DIO", structures)(Task("case", truth / "case.tif", (prediction,))).faults.values()
    assert fault.endswith("case.tif has no spacing; copy case.json of its image beside it")


@pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"])
def test_every_3d_reader_of_nnunet_measures_and_sees_another_origin(reader, tmp_path):
    labels = np.zeros((6, 8, 10), np.uint8)
    labels[2:4, 2:6, 3:7] = 1
    for name, shift in (("truth", 0.0), ("same", 0.0), ("shifted", 5.0)):
        (tmp_path / name).mkdir()
        image = sitk.GetImageFromArray(labels)
        image.SetSpacing((1.0, 1.5, 3.0))
        image.SetDirection((-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
        image.SetOrigin((10.0 + shift, -4.0, 7.0))
        sitk.WriteImage(image, str(tmp_path / name / "case.nii.gz"))
    scorer = CaseScorer(reader, Structures.of({"labels": {"background": 0, "a": 1}}))
    folders = tmp_path / "same", tmp_path / "shifted"
    result = scorer(Task("case", tmp_path / "truth" / "case.nii.gz", folders))
    assert result.error == ""
    assert result.scores[folders[0]][0][0] == 1
    assert "has another geometry than the truth" in result.faults[folders[1]]

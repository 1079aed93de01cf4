"""One case against its truth, in files that nnU-Net's readers wrote."""

import numpy as np
import pytest
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

"""The script of the page turns strokes into labels for nnU-Net."""

import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from tests.documentation.pages import blocks

pytestmark = pytest.mark.fast

DRAWN = [[0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 0]]
STROKES = [[3, 1, 3, 3], [3, 3, 3, 3], [0, 3, 3, 3]]
SLICES = [[0, 1, 0, 0], [3, 3, 3, 3], [0, 0, 0, 0]]


@pytest.mark.parametrize(("whole_slices", "expected"), [(False, STROKES), (True, SLICES)])
def test_untouched_voxels_are_ignored_and_background_strokes_become_background(tmp_path, whole_slices, expected):
    (script,) = [b.text for b in blocks("docs/how-to/annotate-sparsely.md") if b.language == "python"]
    file = tmp_path / "strokes_to_labels.py"
    file.write_text(script.replace("WHOLE_SLICES = False", f"WHOLE_SLICES = {whole_slices}"))
    drawn = sitk.GetImageFromArray(np.array(DRAWN, np.uint8)[:, :, None])
    drawn.SetSpacing((1.0, 2.0, 3.0))
    sitk.WriteImage(drawn, str(tmp_path / "drawn.nii.gz"))
    subprocess.run([sys.executable, file, tmp_path / "drawn.nii.gz", tmp_path / "labels.nii.gz"], check=True)
    labels = sitk.ReadImage(str(tmp_path / "labels.nii.gz"))
    assert sitk.GetArrayFromImage(labels)[:, :, 0].tolist() == expected
    assert labels.GetSpacing() == drawn.GetSpacing()

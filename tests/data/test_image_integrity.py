import gzip

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_semisup.data.image_integrity import check_nifti

pytestmark = pytest.mark.fast


def write(file, dtype="float32", bad=None):
    voxels = (np.random.default_rng(0).random((6, 7, 8)) * 100 + 1).astype(dtype)
    if bad is not None:
        voxels[1, 2, 3] = bad
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(file))
    return file


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint8"])
def test_whole_files_pass(tmp_path, ending, dtype):
    check_nifti(str(write(tmp_path / f"a{ending}", dtype)))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_voxels_are_found_that_simpleitk_hides(tmp_path, ending, bad):
    file = str(write(tmp_path / f"a{ending}", bad=bad))
    assert np.isfinite(SimpleITKIO().read_images([file])[0]).all()
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        check_nifti(file)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path, ending, share):
    file = write(tmp_path / f"a{ending}")
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="truncated or damaged"):
        check_nifti(str(file))


def test_a_truncated_file_that_was_compressed_again_is_refused(tmp_path):
    file = write(tmp_path / "a.nii.gz")
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(content[: len(content) // 2]))
    assert (SimpleITKIO().read_images([str(file)])[0] == 0).any()  # what nnU-Net would train on
    with pytest.raises(ValueError, match="truncated or damaged"):
        check_nifti(str(file))


def test_other_formats_are_left_to_their_readers(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"no image")
    check_nifti(str(file))

"""One case at a time, in this process; what nnU-Net's own preprocessing gives is the reference."""

import copy
import pickle
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_semisup.data.case_preprocessing import RECORD, CasePreprocessor, case_files, read_finished
from nnunetv2_semisup.data.leakage import stamp, voxel_hash
from nnunetv2_semisup.data.manifest import Case
from nnunetv2_semisup.data.synthetic import make_dataset
from tests.data.copies import noise, raw_folder, write_image

pytestmark = pytest.mark.fast
DESCRIPTION = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}


@pytest.fixture
def job(toy, tmp_path):
    """Preprocesses for the toy dataset's plans."""
    return make_job(tmp_path, toy.plans(), "3d_fullres", DESCRIPTION)


def make_job(root, plans, configuration, dataset_json):
    folder, unfinished = root / "done", root / "done" / "unfinished"
    unfinished.mkdir(parents=True)
    return CasePreprocessor(plans, configuration, dataset_json, folder, unfinished, known_voxels={}, reuse=True)


def pending(*files, origin="unlabelled"):
    size, modified = stamp(files)
    return Case(tuple(map(str, files)), origin, size, modified, preprocessing_hash="h")


def image_file(tmp_path, voxels, name="x_0000.nii.gz"):
    write_image(tmp_path / name, voxels)
    return str(tmp_path / name)


def assert_absent(job, identifier):
    assert [file.name for file in job.folder.iterdir()] == ["unfinished"]
    assert list(job.unfinished.iterdir()) == []
    assert read_finished(job.folder, identifier, Case((), "unlabelled", 0, 0, "h")) is None


def test_a_case_is_what_nnunet_makes_of_it(toy, job):
    file = str(raw_folder(toy) / "unlabeled_000_0000.nii.gz")
    case = job(("patient ü 1", pending(file)))
    plans = PlansManager(toy.plans())
    expected, expected_nonzero, properties = DefaultPreprocessor(verbose=False).run_case(
        [file], None, plans, plans.get_configuration("3d_fullres"), DESCRIPTION
    )
    image, nonzero, _, saved = nnUNetDatasetBlosc2(str(job.folder), ["patient ü 1"]).load_case("patient ü 1")
    np.testing.assert_array_equal(image[:], expected)
    np.testing.assert_array_equal(nonzero[:], expected_nonzero)
    record = saved.pop(RECORD)
    assert saved.keys() == properties.keys()
    assert "class_locations" not in saved
    assert (case.status, case.note) == ("done", "")
    assert record == case.__dict__
    raw = sitk.ReadImage(file)
    assert case.shape == (1, *raw.GetSize()[::-1])
    assert case.spacing == pytest.approx(raw.GetSpacing()[::-1])
    assert list(job.unfinished.iterdir()) == []


def test_a_copy_of_a_training_case_has_the_voxels_of_the_stock_case_and_no_trace_of_its_label(toy, job):
    file = str(raw_folder(toy, "imagesTr") / "labeled_000_0000.nii.gz")
    case = job(("labeled_000", pending(file, origin="training")))
    stock = nnUNetDatasetBlosc2(str(toy.dataset_folder / "nnUNetPlans_3d_fullres"), ["labeled_000"])
    stock_image, stock_labels, _, stock_properties = stock.load_case("labeled_000")
    image, nonzero, _, properties = nnUNetDatasetBlosc2(str(job.folder), ["labeled_000"]).load_case("labeled_000")
    np.testing.assert_array_equal(image[:], stock_image[:])
    assert stock_labels[:].max() > 0
    assert "class_locations" in stock_properties
    assert set(np.unique(nonzero[:])) <= {-1, 0}
    assert "class_locations" not in properties
    assert case.status == "done"


@pytest.mark.parametrize("name", ["channel_names", "modality"])
def test_an_rgb_image_holds_three_channels_in_one_file(tmp_path, name):
    make_dataset(tmp_path / "raw", n_labeled=1, n_unlabeled=1, n_test=0, shape=(24, 28), spacing=(1, 1), channels=3,
                 file_ending=".png")  # fmt: skip
    plans = {
        "plans_name": "nnUNetPlans", "image_reader_writer": "NaturalImage2DIO", "transpose_forward": [0, 1, 2],
        "original_median_shape_after_transp": [1, 24, 28],
        "foreground_intensity_properties_per_channel": {str(channel): {} for channel in range(3)},
        "configurations": {"2d": {
            "data_identifier": "nnUNetPlans_2d", "preprocessor_name": "DefaultPreprocessor", "patch_size": [24, 28],
            "spacing": [1.0, 1.0], "normalization_schemes": ["RGBTo01Normalization"] * 3,
            "use_mask_for_norm": [False] * 3, "architecture": {},
            "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_data_kwargs": {"is_seg": False},
            "resampling_fn_seg": "resample_data_or_seg_to_shape", "resampling_fn_seg_kwargs": {"is_seg": True},
        }},
    }  # fmt: skip
    job = make_job(tmp_path, plans, "2d", {name: {"0": "R", "1": "G", "2": "B"}})
    case = job(("rgb", pending(tmp_path / "raw" / "imagesUn" / "unlabeled_000_0000.png")))
    assert (case.status, case.shape) == ("done", (3, 1, 24, 28))
    image = nnUNetDatasetBlosc2(str(job.folder), ["rgb"]).load_case("rgb")[0]
    assert image.shape == (3, 1, 24, 28)

    grey = job(("grey", pending(image_file(tmp_path, noise(0, (24, 28)) * 255, "grey.tif"))))
    assert (grey.status, grey.note) == ("refused", "the image has 1 channel(s), the dataset has 3")


@pytest.mark.parametrize(
    ("voxels", "reason"),
    [
        (noise(0, (12, 12)), "the image is 2D, the dataset is 3D"),
        (noise(0, (1, 12, 12)), "the image is 2D, the dataset is 3D"),
        (np.where(noise(0) > 0.9, np.nan, 1), r"the image has \d+ NaN or infinite voxel\(s\)"),
        (np.where(noise(0) > 0.9, -np.inf, 1), r"the image has \d+ NaN or infinite voxel\(s\)"),
    ],
)
def test_voxels_that_cannot_be_used_are_refused(tmp_path, job, voxels, reason):
    case = job(("x", pending(image_file(tmp_path, voxels))))
    assert case.status == "refused"
    assert re.fullmatch(reason, case.note)
    assert_absent(job, "x")


def test_non_finite_voxels_are_found_in_other_formats_too(tmp_path, job):
    write_image(tmp_path / "x_0000.nii.gz", noise(0))
    image = sitk.Cast(sitk.ReadImage(str(tmp_path / "x_0000.nii.gz")), sitk.sitkFloat32)
    image[1, 2, 3] = float("nan")
    sitk.WriteImage(image, str(tmp_path / "x_0000.mha"), True)
    assert job(("x", pending(tmp_path / "x_0000.mha"))).note == "the image has 1 NaN or infinite voxel(s)"


def test_four_dimensional_files_hold_channels(tmp_path, job):
    image = sitk.GetImageFromArray(noise(0, (3, 8, 8, 8)).astype(np.float32), isVector=False)
    sitk.WriteImage(image, str(tmp_path / "x_0000.nii.gz"))
    assert job(("x", pending(tmp_path / "x_0000.nii.gz"))).note == "the image has 3 channel(s), the dataset has 1"


@pytest.mark.parametrize("content", [b"", b"no image" * 50])
@pytest.mark.parametrize("name", ["x_0000.nii.gz", "x_0000.mha"])
def test_files_that_are_no_images_are_refused_in_one_line(tmp_path, job, capfd, name, content):
    (tmp_path / name).write_bytes(content)
    case = job(("x", pending(tmp_path / name)))
    assert case.status == "refused"
    assert case.note
    assert "\n" not in case.note
    assert len(case.note) < 250
    assert_absent(job, "x")
    assert capfd.readouterr().out == ""


def test_channels_that_do_not_fit_together_are_refused(tmp_path, toy, job, capfd):
    shapes = [(8, 12, 12), (9, 9, 9)]
    files = [image_file(tmp_path, noise(0, shape), f"x_{channel:04d}.nii.gz") for channel, shape in enumerate(shapes)]
    case = replace(job, dataset_json=DESCRIPTION | {"channel_names": {"0": "a", "1": "b"}})(("x", pending(*files)))
    assert (case.status, case.note) == ("refused", "the files of its channels differ in shape or spacing")
    assert capfd.readouterr().out == ""


def test_what_a_reader_warns_of_is_noted(tmp_path, job, capfd):
    files = [image_file(tmp_path, noise(0), f"x_{channel:04d}.nii.gz") for channel in range(2)]
    moved = sitk.ReadImage(files[1])
    moved.SetOrigin((9, 9, 9))
    sitk.WriteImage(moved, files[1])
    plans = copy.deepcopy(job.plans)
    for setting in ("normalization_schemes", "use_mask_for_norm"):
        plans["configurations"]["3d_fullres"][setting] *= 2
    plans["foreground_intensity_properties_per_channel"]["1"] = plans["foreground_intensity_properties_per_channel"][
        "0"
    ]
    description = DESCRIPTION | {"channel_names": {"0": "a", "1": "b"}}
    case = replace(job, plans=plans, dataset_json=description)(("x", pending(*files)))
    assert (case.status, case.note) == ("done", "WARNING! Not all input images have the same origin!")
    assert read_finished(job.folder, "x", pending(*files)).note == case.note
    assert capfd.readouterr().out == ""


def test_an_error_without_words_is_named(tmp_path, job, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("nnunetv2_semisup.data.case_preprocessing.voxel_hash", fail)
    case = job(("x", pending(image_file(tmp_path, noise(0)))))
    assert (case.status, case.note) == ("refused", "MemoryError()")


def test_a_protected_image_is_refused_under_any_name_and_header(toy, tmp_path, job):
    original = sitk.ReadImage(str(raw_folder(toy, "imagesTr") / "labeled_000_0000.nii.gz"))
    known = {voxel_hash(sitk.GetArrayFromImage(original)[None].astype(np.float32)): "the training case labeled_000"}
    original.SetOrigin((1, 2, 3))
    original.SetSpacing((4, 4, 4))
    sitk.WriteImage(original, str(tmp_path / "new_0000.nii"))
    job = replace(job, known_voxels=known)
    case = job(("new", pending(tmp_path / "new_0000.nii")))
    assert (case.status, case.note) == (
        "refused", "its voxels are those of the training case labeled_000; remove the file",
    )  # fmt: skip
    assert_absent(job, "new")
    assert job(("new", pending(tmp_path / "new_0000.nii", origin="training"))).status == "done"


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_image_works_with_a_warning(tmp_path, job, value):
    case = job(("x", pending(image_file(tmp_path, np.full((8, 12, 12), value)))))
    assert (case.status, case.note) == ("done", "the image is constant")
    image, nonzero, _, _ = nnUNetDatasetBlosc2(str(job.folder), ["x"]).load_case("x")
    assert np.isfinite(image[:]).all()
    assert image.shape[1:] == nonzero.shape[1:]


def test_an_image_smaller_than_the_patch_works(tmp_path, job):
    assert job(("x", pending(image_file(tmp_path, noise(0, (3, 4, 4)))))).status == "done"


def test_a_complete_case_is_reused_and_anything_less_is_made_again(tmp_path, job):
    file = image_file(tmp_path, noise(0))
    done = job(("x", pending(file)))
    names = case_files("x")
    stamps = {name: (job.folder / name).stat().st_mtime_ns for name in names}

    def remade():
        again = {name: (job.folder / name).stat().st_mtime_ns for name in names}
        changed = again != stamps
        stamps.update(again)
        return changed

    assert job(("x", pending(file))) == done
    assert not remade()
    for name in names:
        (job.folder / name).unlink()
        assert job(("x", pending(file))).status == "done"
        assert remade()
    (job.folder / "x.pkl").write_bytes(pickle.dumps({}))
    assert job(("x", pending(file))) == done
    assert remade()
    job(("x", replace(pending(file), preprocessing_hash="other")))
    assert remade()
    replace(job, reuse=False)(("x", pending(file)))
    assert remade()
    moved = shutil.copy(file, tmp_path / "moved.nii.gz")
    assert job(("x", pending(moved))).status == "done"
    assert not remade()
    write_image(tmp_path / "x_0000.nii.gz", noise(1))
    assert job(("x", pending(file))).voxel_hash != done.voxel_hash
    assert remade()


def test_a_case_that_is_refused_now_is_gone(tmp_path, job):
    file = image_file(tmp_path, noise(0))
    job(("x", pending(file)))
    write_image(tmp_path / "x_0000.nii.gz", np.full((8, 8, 8), np.nan))
    assert job(("x", pending(file))).status == "refused"
    assert_absent(job, "x")

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

from nnunetv2_semisup.data.sparsify.files import TABLE, Request, sparsify_folder
from nnunetv2_semisup.data.synthetic import make_dataset
from nnunetv2_semisup.errors import SemiSupervisedError

pytestmark = pytest.mark.fast

REQUEST = Request(mode="scribbles", budget=0.02, foreground_only=False, seed=0)
MOST = int(0.02 * 16 * 24 * 24)


@pytest.fixture
def raw(tmp_path):
    """A raw dataset of 3 labelled cases with labels 0 to 4."""
    make_dataset(tmp_path / "raw", n_labeled=3, n_unlabeled=0, n_test=0, shape=(16, 24, 24), seed=3)
    return tmp_path / "raw"


def read(file):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def write_labels(raw, change):
    """Change the first case's file: `change` takes its labels."""
    file = raw / "labelsTr" / "labeled_000.nii.gz"
    image = sitk.ReadImage(str(file))
    changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(file))
    return file


def describe(raw, **changes):
    file = raw / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def contents(folder):
    return {file.name: read(file) for file in folder.glob("*.nii.gz")}


def test_every_case_has_its_sparse_copy(raw, tmp_path):
    written = sparsify_folder(raw / "labelsTr", tmp_path / "sparse", REQUEST, 1)
    assert written.ignore == 5
    names = {f"labeled_00{i}.nii.gz" for i in range(3)}
    assert {file.name for file in (tmp_path / "sparse").iterdir()} == names | {TABLE, "dataset.json"}
    for name in names:
        dense, sparse = (read(folder / name) for folder in (raw / "labelsTr", tmp_path / "sparse"))
        assert (sparse[sparse != 5] == dense[sparse != 5]).all()
        assert np.count_nonzero(sparse != 5) == MOST


def test_nnunet_takes_the_result_for_a_dataset(raw, tmp_path):
    sparsify_folder(raw / "labelsTr", tmp_path / "sparse", REQUEST, 1)
    shutil.rmtree(raw / "labelsTr")
    (tmp_path / "sparse").rename(raw / "labelsTr")
    with pytest.raises(RuntimeError):  # the dense labels' description does not know the ignore label
        verify_dataset_integrity(str(raw), num_processes=1)
    shutil.copy(raw / "labelsTr" / "dataset.json", raw / "dataset.json")
    verify_dataset_integrity(str(raw), num_processes=1)


@pytest.mark.parametrize("mode", ["slices", "scribbles", "points", "erosion"])
def test_neither_processes_nor_other_cases_matter(raw, tmp_path, mode):
    request = replace(REQUEST, mode=mode, budget=0.1)
    sparsify_folder(raw / "labelsTr", tmp_path / "one", request, 1)
    first = contents(tmp_path / "one")
    if mode == "scribbles":
        sparsify_folder(raw / "labelsTr", tmp_path / "two", request, 2)
        assert all(np.array_equal(labels, first[name]) for name, labels in contents(tmp_path / "two").items())
    (raw / "labelsTr" / "labeled_000.nii.gz").unlink()
    sparsify_folder(raw / "labelsTr", tmp_path / "fewer", request, 1)
    fewer = contents(tmp_path / "fewer")
    assert len(fewer) == 2
    assert all(np.array_equal(labels, first[name]) for name, labels in fewer.items())
    sparsify_folder(raw / "labelsTr", tmp_path / "other", replace(request, seed=1), 1)
    assert not all(np.array_equal(labels, first[name]) for name, labels in contents(tmp_path / "other").items())


def test_a_case_has_random_numbers_of_its_own(raw, tmp_path):
    shutil.copy(raw / "labelsTr" / "labeled_000.nii.gz", raw / "labelsTr" / "copy.nii.gz")
    sparsify_folder(raw / "labelsTr", tmp_path / "sparse", REQUEST, 1)
    found = contents(tmp_path / "sparse")
    assert not np.array_equal(found["copy.nii.gz"], found["labeled_000.nii.gz"])


def test_an_oblique_geometry_stays(raw, tmp_path):
    file = raw / "labelsTr" / "labeled_000.nii.gz"
    image = sitk.ReadImage(str(file))
    turn = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5).GetMatrix()
    image.SetDirection(turn)
    image.SetOrigin((-12.5, 40.0, 7.0))
    image.SetSpacing((0.7, 0.8, 4.0))
    sitk.WriteImage(image, str(file))
    sparsify_folder(raw / "labelsTr", tmp_path / "sparse", replace(REQUEST, mode="slices", budget=0.2), 1)
    written = sitk.ReadImage(str(tmp_path / "sparse" / file.name))
    assert np.allclose(written.GetDirection(), turn, atol=1e-6)
    assert np.allclose(written.GetOrigin(), image.GetOrigin(), atol=1e-5)
    assert np.allclose(written.GetSpacing(), image.GetSpacing(), atol=1e-6)
    assert written.GetSize() == image.GetSize()


@pytest.mark.parametrize("mode", ["scribbles", "points", "erosion"])
def test_2d_images(tmp_path, mode):
    make_dataset(tmp_path / "raw", n_labeled=2, n_unlabeled=0, n_test=0, shape=(48, 64), spacing=(1.0, 1.0), channels=3,
                 file_ending=".png")  # fmt: skip
    written = sparsify_folder(tmp_path / "raw" / "labelsTr", tmp_path / "sparse", replace(REQUEST, mode=mode), 1)
    case = next(row for row in written.rows if row.case == "labeled_000")
    assert case.unit == "mm2"
    assert case.voxels == 48 * 64
    assert case.annotated == pytest.approx(61, abs=5)
    assert case.size == case.annotated
    assert np.count_nonzero(read(tmp_path / "sparse" / "labeled_000.png") != 5) == case.annotated


def test_regions_and_an_ignore_label_that_was_there(raw, tmp_path):
    labels = {"background": 0, "organs": [1, 2, 3, 4], "tubes": [2, 3], "lesion": 4, "ignore": 5}
    describe(raw, labels=labels, regions_class_order=[1, 2, 4])

    def ignore_some(dense):
        dense[:, ::3] = 5
        return dense

    write_labels(raw, ignore_some)
    written = sparsify_folder(raw / "labelsTr", tmp_path / "sparse", REQUEST, 1)
    assert written.ignore == 5
    assert json.loads((tmp_path / "sparse" / "dataset.json").read_text())["labels"] == labels
    assert (read(tmp_path / "sparse" / "labeled_000.nii.gz")[:, ::3] == 5).all()
    names = {row.label: row.name for row in written.rows}
    assert names == {"all": "", "0": "background", "1": "organs", "2": "organs + tubes", "3": "organs + tubes",
                     "4": "organs + lesion"}  # fmt: skip


def test_the_table_counts_what_is_left(raw, tmp_path):
    sparsify_folder(raw / "labelsTr", tmp_path / "sparse", REQUEST, 1)
    with (tmp_path / "sparse" / TABLE).open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows if row["label"] == "all"] == [*(f"labeled_00{i}" for i in range(3)), "all"]
    dense = read(raw / "labelsTr" / "labeled_001.nii.gz")
    sparse = read(tmp_path / "sparse" / "labeled_001.nii.gz")
    for row in (row for row in rows if row["case"] == "labeled_001"):
        before, left = dense.size, np.count_nonzero(sparse != 5)
        if row["label"] != "all":
            before, left = (np.count_nonzero(volume == int(row["label"])) for volume in (dense, sparse))
        assert (int(row["voxels"]), int(row["annotated"])) == (before, left)
        assert float(row["share"]) == pytest.approx(left / before, rel=1e-5)
        assert float(row["size"]) == pytest.approx(left * 3 * 2.5 * 2.5, rel=1e-5)
        assert row["unit"] == "mm3"
    for label in ("all", "0", "1", "2", "3", "4"):
        total = next(row for row in rows if row["case"] == "all" and row["label"] == label)
        own = [row for row in rows if row["case"] != "all" and row["label"] == label]
        assert int(total["annotated"]) == sum(int(row["annotated"]) for row in own)
        assert int(total["voxels"]) == sum(int(row["voxels"]) for row in own)


def test_sparse_labels_can_be_made_sparser(raw, tmp_path):
    sparsify_folder(raw / "labelsTr", tmp_path / "slices", replace(REQUEST, mode="slices", budget=0.3), 1)
    written = sparsify_folder(tmp_path / "slices", tmp_path / "scribbles", REQUEST, 1)
    assert written.ignore == 5
    for name, sparse in contents(tmp_path / "scribbles").items():
        assert (sparse[contents(tmp_path / "slices")[name] == 5] == 5).all()


def fraction(labels):
    labels = labels.astype(np.float32)
    labels[0, 0, 0] = 0.5
    return labels


def foreign(labels):
    labels[0, 0, 0] = 7
    return labels


def truncate(raw):
    file = raw / "labelsTr" / "labeled_000.nii.gz"
    file.write_bytes(file.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda raw: write_labels(raw, fraction), "holds 0.5, and dataset.json has the labels 0, 1, 2, 3, 4"),
        (lambda raw: write_labels(raw, foreign), "holds 7, and dataset.json has the labels 0, 1, 2, 3, 4"),
        (lambda raw: write_labels(raw, lambda labels: labels.astype(np.int16) - 1), "holds -1"),
        (lambda raw: write_labels(raw, lambda labels: np.full_like(labels, 5)), "holds 5, and dataset.json"),
        (truncate, "truncated or damaged|cannot be read"),
        (lambda raw: (raw / "labelsTr" / "labeled_000.nii.gz").rename(raw / "labelsTr" / "a.nrrd"), "end in .nii.gz"),
        (lambda raw: [file.unlink() for file in (raw / "labelsTr").iterdir()], "holds no label file"),
        (lambda raw: shutil.rmtree(raw / "labelsTr"), "no folder"),
        (lambda raw: (raw / "dataset.json").unlink(), "no dataset.json"),
        (lambda raw: (raw / "dataset.json").write_text("{"), "not valid JSON"),
        (lambda raw: (raw / "dataset.json").write_text("{}"), "no labels or no file_ending"),
        (lambda raw: describe(raw, labels={"background": 0, "a": 1, "ignore": 2, "b": 3}), "highest"),
        (lambda raw: describe(raw, labels={"a": 1}), "[Bb]ackground"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(raw, tmp_path, break_it, message):
    break_it(raw)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SemiSupervisedError, match=message) as error:
        sparsify_folder(raw / "labelsTr", tmp_path / "sparse", REQUEST, 1)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


def test_an_image_in_the_place_of_labels_is_refused(raw, tmp_path):
    image = sitk.ReadImage(str(raw / "imagesTr" / "labeled_000_0000.nii.gz"))
    sitk.WriteImage(image, str(raw / "labelsTr" / "labeled_000.nii.gz"))
    with pytest.raises(SemiSupervisedError, match=r"dataset\.json has the labels 0, 1"):
        sparsify_folder(raw / "labelsTr", tmp_path / "sparse", REQUEST, 1)


def test_a_colour_png_is_no_label(tmp_path):
    make_dataset(tmp_path / "raw", n_labeled=1, n_unlabeled=0, n_test=0, shape=(32, 32), spacing=(1.0, 1.0), channels=3,
                 file_ending=".png")  # fmt: skip
    raw = tmp_path / "raw"
    shutil.copy(raw / "imagesTr" / "labeled_000_0000.png", raw / "labelsTr" / "labeled_000.png")
    with pytest.raises(SemiSupervisedError, match="3 channels"):
        sparsify_folder(raw / "labelsTr", tmp_path / "sparse", REQUEST, 1)


def test_a_target_that_exists_is_left_alone(raw, tmp_path):
    (tmp_path / "sparse").mkdir()
    (tmp_path / "sparse" / "mine").touch()
    with pytest.raises(SemiSupervisedError, match="exists already"):
        sparsify_folder(raw / "labelsTr", tmp_path / "sparse", REQUEST, 1)
    assert [file.name for file in (tmp_path / "sparse").iterdir()] == ["mine"]

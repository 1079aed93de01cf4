import numpy as np
import pytest
import SimpleITK
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

from nnunetv2_semisup.data.synthetic import LABELS, make_dataset, make_patient
from nnunetv2_semisup.errors import SemiSupervisedError

pytestmark = pytest.mark.fast
SHAPE = (20, 32, 32)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_follow_nnunet_raw_format(tmp_path):
    folder = tmp_path / "Dataset900_Synthetic"
    make_dataset(folder, n_labeled=2, n_unlabeled=3, n_test=1, shape=SHAPE, spacing=(3, 2, 1), seed=1)
    assert names(folder) == ["dataset.json", "imagesTr", "imagesTs", "imagesUn", "labelsTr", "labelsTs"]
    assert names(folder / "imagesTr") == ["labeled_000_0000.nii.gz", "labeled_001_0000.nii.gz"]
    assert names(folder / "labelsTr") == ["labeled_000.nii.gz", "labeled_001.nii.gz"]
    assert names(folder / "imagesUn") == [f"unlabeled_{i:03d}_0000.nii.gz" for i in range(3)]
    assert names(folder / "labelsTs") == ["test_000.nii.gz"]
    assert names(tmp_path) == ["Dataset900_Synthetic"]
    image = SimpleITK.ReadImage(str(folder / "imagesTr" / "labeled_000_0000.nii.gz"))
    assert image.GetSize() == SHAPE[::-1]
    np.testing.assert_allclose(image.GetSpacing(), (1, 2, 3))


@pytest.mark.parametrize(("shape", "channels"), [(SHAPE, 1), (SHAPE, 2), ((32, 40), 1)])
def test_nnunet_finds_no_fault(tmp_path, capfd, shape, channels):
    folder = tmp_path / "Dataset900_Synthetic"
    make_dataset(folder, n_labeled=2, n_unlabeled=0, n_test=0, shape=shape, spacing=[2] * len(shape), channels=channels)
    verify_dataset_integrity(str(folder), num_processes=1)
    printed = capfd.readouterr().out
    assert "Done" in printed
    assert "Error" not in printed
    assert "Warning" not in printed


@pytest.mark.parametrize("channels", [1, 3])
def test_png_dataset_is_read_by_nnunet(tmp_path, channels):
    folder = tmp_path / "Dataset900_Png"
    counts = {"n_labeled": 1, "n_unlabeled": 0, "n_test": 0}
    make_dataset(folder, **counts, shape=(32, 40), spacing=(1, 1), channels=channels, file_ending=".png")
    image, _ = NaturalImage2DIO().read_images([str(folder / "imagesTr" / "labeled_000_0000.png")])
    label, _ = NaturalImage2DIO().read_seg(str(folder / "labelsTr" / "labeled_000.png"))
    assert image.shape == (channels, 1, 32, 40)
    assert image.std() > 5
    np.testing.assert_array_equal(
        label[0, 0], make_patient((32, 40), seed=0, group="labeled", index=0, channels=channels)[1]
    )


def test_a_case_depends_on_seed_and_name_only(tmp_path):
    make_dataset(tmp_path / "a", n_labeled=2, n_unlabeled=1, n_test=0, shape=SHAPE, seed=3)
    make_dataset(tmp_path / "b", n_labeled=1, n_unlabeled=4, n_test=2, shape=SHAPE, seed=3)
    make_dataset(tmp_path / "c", n_labeled=1, n_unlabeled=1, n_test=0, shape=SHAPE, seed=4)

    def voxels(dataset, file):
        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / dataset / file)))

    files = ("imagesTr/labeled_000_0000.nii.gz", "labelsTr/labeled_000.nii.gz", "imagesUn/unlabeled_000_0000.nii.gz")
    for file in files:
        np.testing.assert_array_equal(voxels("a", file), voxels("b", file))
        assert (voxels("a", file) != voxels("c", file)).any()


def test_patients_differ_and_hold_every_structure():
    patients = [make_patient((40, 64, 64), seed=0, group="unlabeled", index=i) for i in range(12)]
    images, labels = zip(*patients, strict=True)
    for label in labels:
        sizes = np.bincount(label.ravel(), minlength=len(LABELS))
        assert len(sizes) == len(LABELS)
        assert (sizes[1:] > 20).all(), sizes
        assert sizes[LABELS["liver"]] > sizes[LABELS["kidney"]] > sizes[LABELS["lesion"]]
    means = [image[0][label == LABELS["liver"]].mean() for image, label in zip(images, labels, strict=True)]
    assert np.std(means) > 20
    overlap = ((labels[0] == 1) & (labels[1] == 1)).sum() / ((labels[0] == 1) | (labels[1] == 1)).sum()
    assert 0.1 < overlap < 0.95


def test_lesions_lie_inside_the_body_and_kidneys_on_both_sides():
    for index in range(8):
        _, label = make_patient((40, 64, 64), seed=1, group="test", index=index)
        kidney_columns = np.flatnonzero((label == LABELS["kidney"]).any((0, 1)))
        assert kidney_columns[0] < 30
        assert kidney_columns[-1] > 34
        assert not label[:, [0, -1]].any()
        assert not label[:, :, [0, -1]].any()


def test_intensity_alone_does_not_segment():
    """The best single threshold band for the liver, chosen with the truth in hand, stays poor: labels are needed."""
    image, label = make_patient((40, 64, 64), seed=0, group="test", index=1)
    truth = label == LABELS["liver"]
    edges = np.percentile(image, np.arange(0, 101, 5))
    dice = [
        2 * (truth & band).sum() / (truth.sum() + band.sum())
        for low in edges[:-1]
        for high in edges[edges > low]
        if (band := (image[0] >= low) & (image[0] <= high)).any()
    ]
    assert max(dice) < 0.75


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(SemiSupervisedError, match="not empty"):
        make_dataset(tmp_path, n_labeled=1, n_unlabeled=0, n_test=0, shape=SHAPE)
    assert names(tmp_path) == ["mine.txt"]

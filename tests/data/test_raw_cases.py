import pytest

from nnunetv2_semisup.data.raw_cases import find_cases, find_labels, held_out_cases, training_cases
from nnunetv2_semisup.errors import SemiSupervisedError

pytestmark = pytest.mark.fast


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_channels_are_grouped_whatever_the_identifier_looks_like(tmp_path):
    names = ["b_0001.nii.gz", "b_0000.nii.gz", "patient ä 7_0000_0000.nii.gz", "patient ä 7_0000_0001.nii.gz"]
    cases, faults = find_cases(touch(tmp_path, *names), ".nii.gz")
    assert faults == {}
    assert cases == {
        "b": (str(tmp_path / "b_0000.nii.gz"), str(tmp_path / "b_0001.nii.gz")),
        "patient ä 7_0000": tuple(str(tmp_path / name) for name in names[2:]),
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("scan.nii.gz", "must end in a channel"),
        ("scan_000.nii.gz", "must end in a channel"),
        ("_0000.nii.gz", "must end in a channel"),
        ("scan_0000.mha", "end in .nii.gz"),
        ("scan_0000.nii", "end in .nii.gz"),
        ("scan_0000.dcm", "end in .nii.gz"),
        ("scan.nrrd", "end in .nii.gz"),
        ("scan_0001.nii.gz", "without a gap; scan has 0001"),
        ("scan_seg_0000.nii.gz", "_seg"),
    ],
)
def test_what_cannot_be_a_case_is_named(tmp_path, name, reason):
    cases, faults = find_cases(touch(tmp_path, "good_0000.nii.gz", name), ".nii.gz")
    assert list(cases) == ["good"]
    assert list(faults) == [str(tmp_path / name)]
    assert reason in faults[str(tmp_path / name)]


def test_a_link_to_nothing_is_a_fault_of_its_case(tmp_path):
    touch(tmp_path, "good_0000.nii.gz", "far_0000.nii.gz")
    for name in ("far_0001.nii.gz", "notes.txt"):
        (tmp_path / name).symlink_to("/nowhere/file")
    cases, faults = find_cases(tmp_path, ".nii.gz")
    assert list(cases) == ["good"]
    assert list(faults) == [str(tmp_path / "far_0001.nii.gz")]
    with pytest.raises(SemiSupervisedError, match=r"far_0001\.nii\.gz: it links to a file that is not there; mount"):
        find_labels(tmp_path, ".nii.gz")


def test_what_is_no_image_is_passed_over(tmp_path):
    touch(tmp_path, "a_0000.png", "README.txt", ".DS_Store", "._a_0000.png", "list.csv")
    (tmp_path / "folder_0000.png").mkdir()
    cases, faults = find_cases(tmp_path, ".png")
    assert list(cases) == ["a"]
    assert faults == {}


def test_an_empty_and_a_missing_folder_say_what_to_do(tmp_path):
    with pytest.raises(SemiSupervisedError, match=r"holds no image.*CASE_0000\.nii\.gz"):
        find_cases(touch(tmp_path, "README.txt"), ".nii.gz")
    with pytest.raises(SemiSupervisedError, match=r"no folder.*-i"):
        find_cases(tmp_path / "missing", ".nii.gz")


def test_training_cases_are_nnunets_own(tmp_path):
    touch(tmp_path / "imagesTr", "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz")
    found = training_cases(tmp_path, {"file_ending": ".nii.gz"})
    assert found == {case: tuple(str(tmp_path / "imagesTr" / f"{case}_000{c}.nii.gz") for c in (0, 1)) for case in "ab"}


def test_training_cases_may_be_listed_in_dataset_json(tmp_path):
    description = {"file_ending": ".nii.gz", "dataset": {"a": {"images": ["x/a.nii.gz"], "label": "y/a.nii.gz"}}}
    assert training_cases(tmp_path, description) == {"a": (str(tmp_path / "x/a.nii.gz"),)}
    assert description["dataset"]["a"]["label"] == "y/a.nii.gz"


def test_a_dataset_without_raw_images_has_none(tmp_path):
    assert training_cases(tmp_path, {"file_ending": ".nii.gz"}) == {}
    assert held_out_cases(tmp_path, ".nii.gz") == {}


def test_labels_are_found_by_case(tmp_path):
    names = ["b.nii.gz", "patient ä 7_0000.nii.gz", ".hidden.nii.gz", "dataset.json", "annotated.csv", "b_0000.json"]
    found = find_labels(touch(tmp_path, *names), ".nii.gz")
    assert found == {"b": tmp_path / "b.nii.gz", "patient ä 7_0000": tmp_path / "patient ä 7_0000.nii.gz"}


@pytest.mark.parametrize("name", ["scan.nii", "scan.mha", "scan.PNG"])
def test_labels_of_another_ending_are_refused(tmp_path, name):
    with pytest.raises(SemiSupervisedError, match=rf"{name}: the dataset's files end in \.nii\.gz"):
        find_labels(touch(tmp_path, "a.nii.gz", name), ".nii.gz")


def test_a_folder_without_labels_is_refused(tmp_path):
    with pytest.raises(SemiSupervisedError, match="holds no label file"):
        find_labels(touch(tmp_path, "notes.txt"), ".nii.gz")
    with pytest.raises(SemiSupervisedError, match="there is no folder"):
        find_labels(tmp_path / "nowhere", ".nii.gz")

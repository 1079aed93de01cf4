import shutil

import pytest

from nnunetv2_semisup.data.inventory import take_inventory
from nnunetv2_semisup.errors import SemiSupervisedError

pytestmark = pytest.mark.fast
DESCRIPTION = {"file_ending": ".png"}


@pytest.fixture
def raw(tmp_path):
    """Two training cases, one test case, two unlabelled cases; the bytes of the files are their names."""
    put(tmp_path, "imagesTr", "t1", "t2")
    put(tmp_path, "imagesTs", "s1")
    put(tmp_path, "imagesUn", "u2", "u1")
    return tmp_path


def put(raw, folder, *cases, channels=1):
    (raw / folder).mkdir(exist_ok=True)
    for case in cases:
        for channel in range(channels):
            (raw / folder / f"{case}_{channel:04d}.png").write_text(f"{case} {channel}")


def inventory(raw, *folders, training=False):
    return take_inventory(raw, DESCRIPTION, [raw / folder for folder in folders], training, 1)


def test_unlabelled_images_come_from_images_un(raw):
    found = inventory(raw)
    assert list(found.cases) == ["u1", "u2"]
    assert {case.origin for case in found.cases.values()} == {"unlabelled"}
    assert {case.status for case in found.cases.values()} == {"pending"}
    assert found.cases["u1"].source == (str(raw / "imagesUn" / "u1_0000.png"),)
    assert found.cases["u1"].size == len("u1 0")
    assert found.faults == {}
    assert set(found.protected) == {"the training case t1", "the training case t2", "the test case s1"}


def test_folders_replace_images_un_and_add_up(raw):
    put(raw, "a", "x")
    put(raw, "b", "y ü")
    assert list(inventory(raw, "a", "b", "a").cases) == ["x", "y ü"]


def test_training_cases_join_on_request(raw):
    found = inventory(raw, training=True)
    assert {name: case.origin for name, case in found.cases.items()} == {
        "t1": "training", "t2": "training", "u1": "unlabelled", "u2": "unlabelled",
    }  # fmt: skip


@pytest.mark.parametrize("exists", [True, False])
def test_training_cases_alone_need_no_images_un(raw, exists):
    shutil.rmtree(raw / "imagesUn")
    if exists:
        (raw / "imagesUn").mkdir()
    assert list(inventory(raw, training=True).cases) == ["t1", "t2"]
    with pytest.raises(SemiSupervisedError, match="imagesUn"):
        inventory(raw)
    (raw / "empty").mkdir()
    with pytest.raises(SemiSupervisedError, match="empty holds no image"):
        inventory(raw, "empty", training=True)


def test_notes_beside_the_images_are_no_images(raw):
    shutil.rmtree(raw / "imagesTs")
    shutil.rmtree(raw / "imagesUn")
    for folder in ("imagesTs", "imagesUn"):
        (raw / folder).mkdir()
        for name in ("README.txt", ".DS_Store"):
            (raw / folder / name).write_text("of a colleague")
    put(raw, "a", "x")
    assert list(inventory(raw, "a").cases) == ["x"]
    assert list(inventory(raw, training=True).cases) == ["t1", "t2"]


@pytest.mark.parametrize("folder", ["imagesTr", "imagesTs"])
def test_training_and_test_folders_are_no_unlabelled_folders(raw, folder):
    with pytest.raises(SemiSupervisedError, match=f"{folder} holds no unlabelled cases"):
        inventory(raw, "imagesUn", folder)


@pytest.mark.parametrize(("case", "name"), [("t1", "training case t1"), ("s1", "test case s1")])
def test_a_protected_identifier_is_refused(raw, case, name):
    put(raw, "imagesUn", case)
    (raw / "imagesUn" / f"{case}_0000.png").write_text("another image")
    found = inventory(raw)
    assert list(found.cases) == ["u1", "u2"]
    assert name in found.faults[str(raw / "imagesUn" / f"{case}_0000.png")]


def test_copies_under_other_names_are_refused(raw):
    for source, copy in (("imagesTr/t1", "copy1"), ("imagesTs/s1", "copy2"), ("imagesUn/u1", "z")):
        shutil.copy(raw / f"{source}_0000.png", raw / "imagesUn" / f"{copy}_0000.png")
    found = inventory(raw)
    assert list(found.cases) == ["u1", "u2"]
    reasons = {file.rsplit("/", 1)[1]: reason for file, reason in found.faults.items()}
    assert "the training case t1" in reasons["copy1_0000.png"]
    assert "the test case s1" in reasons["copy2_0000.png"]
    assert "the unlabelled case u1" in reasons["z_0000.png"]


@pytest.mark.parametrize("channels", [2, 3])
def test_the_number_of_files_is_that_of_the_training_cases(raw, channels):
    put(raw, "imagesUn", "many", channels=channels)
    found = inventory(raw)
    assert list(found.cases) == ["u1", "u2"]
    assert f"{channels} file(s), the dataset's cases have 1" in found.faults[str(raw / "imagesUn" / "many_0000.png")]


def test_too_few_channels_are_refused(raw):
    for folder, cases in (("imagesTr", ["t1", "t2"]), ("imagesTs", ["s1"]), ("imagesUn", ["u1"])):
        put(raw, folder, *cases, channels=2)
    found = inventory(raw)
    assert list(found.cases) == ["u1"]
    assert "1 file(s), the dataset's cases have 2" in found.faults[str(raw / "imagesUn" / "u2_0000.png")]


def test_one_identifier_in_two_folders_is_refused_once(raw):
    put(raw, "a", "u1")
    found = inventory(raw, "imagesUn", "a")
    assert found.cases["u1"].source == (str(raw / "imagesUn" / "u1_0000.png"),)
    assert list(found.faults) == [str(raw / "a" / "u1_0000.png")]


def test_without_the_raw_dataset_other_folders_still_serve(raw, tmp_path):
    found = take_inventory(tmp_path / "missing", DESCRIPTION, [raw / "imagesUn"], False, 1)
    assert list(found.cases) == ["u1", "u2"]
    with pytest.raises(SemiSupervisedError, match="training"):
        take_inventory(tmp_path / "missing", DESCRIPTION, [raw / "imagesUn"], True, 1)

"""Whole calls with spawned workers: what is made, skipped, refused, gone on with and replaced."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import active_children
from threading import Event

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunetv2_semisup.cli.main import build_parser
from nnunetv2_semisup.data.case_preprocessing import case_files
from nnunetv2_semisup.data.inventory import take_inventory
from nnunetv2_semisup.data.lock import held
from nnunetv2_semisup.data.manifest import manifest_file, part_files, read_manifest, unlabeled_folder
from nnunetv2_semisup.data.preprocessing import preprocess_unlabeled
from nnunetv2_semisup.data.selection import select_cases
from nnunetv2_semisup.errors import SemiSupervisedError
from tests.data.copies import DATA_IDENTIFIER, copy_of, noise, raw_folder, snapshot, write_image
from tests.workspace import Workspace


@dataclass
class Desk:
    """A workspace without unlabelled data, and calls in it."""

    workspace: Workspace

    @property
    def folder(self):
        return unlabeled_folder(self.workspace.dataset_folder, DATA_IDENTIFIER)

    @property
    def images(self):
        return raw_folder(self.workspace)

    def description(self):
        return json.loads((self.workspace.dataset_folder / "dataset.json").read_text())

    def preprocess(self, *folders, training=False, plans=None, num_processes=1, **options):
        raw = self.images.parent
        inventory = take_inventory(raw, self.description(), folders, training, num_processes)
        return preprocess_unlabeled(
            self.workspace.dataset_folder, self.description(), plans or self.workspace.plans(), "3d_fullres", inventory,
            num_processes=num_processes, **options,
        )  # fmt: skip

    def manifest(self):
        return read_manifest(self.workspace.dataset_folder, DATA_IDENTIFIER)

    def voxels(self, identifier):
        image, nonzero, _, _ = nnUNetDatasetBlosc2(str(self.folder), [identifier]).load_case(identifier)
        return image[:], nonzero[:]

    def select(self, plans=None):
        folder = self.workspace.dataset_folder
        return select_cases(folder, plans or self.workspace.plans(), "3d_fullres", 0, None, True)

    def assert_complete(self, *identifiers):
        """Exactly these cases are on disk, each whole and readable."""
        assert sorted(snapshot(self.folder)) == sorted(name for case in identifiers for name in case_files(case))
        for identifier in identifiers:
            image, nonzero = self.voxels(identifier)
            assert image.shape[1:] == nonzero.shape[1:]


@pytest.fixture
def desk(toy, tmp_path):
    workspace = copy_of(toy, tmp_path, with_unlabeled=False)
    with workspace.active():
        yield Desk(workspace)


UNLABELED = ["unlabeled_000", "unlabeled_001", "unlabeled_002"]


def test_finished_cases_are_skipped_and_new_ones_added(desk, capfd):
    (desk.images / "broken_0000.nii.gz").write_bytes(b"x")
    outcome = desk.preprocess(num_processes=2)
    assert sorted(outcome.made) == UNLABELED
    assert [line.split(": ")[0] for line in outcome.refused] == [str(desk.images / "broken_0000.nii.gz")]
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1
    assert "broken_0000.nii.gz" in lines[0]
    desk.assert_complete(*UNLABELED)
    manifest = desk.manifest()
    assert manifest.done("unlabelled") == UNLABELED
    assert manifest.cases["broken"].status == "refused"
    assert desk.select().unlabeled == tuple(UNLABELED)

    before = snapshot(desk.folder)
    write_image(desk.images / "née 4_0000.nii.gz", noise(1))
    write_image(desk.images / "broken_0000.nii.gz", noise(2))
    outcome = desk.preprocess()
    assert sorted(outcome.made) == ["broken", "née 4"]
    assert (outcome.skipped, outcome.refused) == (UNLABELED, [])
    after = snapshot(desk.folder)
    assert {name: after[name] for name in before} == before
    desk.assert_complete(*UNLABELED, "broken", "née 4")


def test_labelled_images_and_twins_are_found_by_their_voxels(desk):
    def again(source, target):
        image = sitk.ReadImage(str(source))
        image.SetOrigin((5, 5, 5))
        sitk.WriteImage(image, str(desk.images / f"{target}_0000.nii.gz"))

    again(raw_folder(desk.workspace, "imagesTr") / "labeled_003_0000.nii.gz", "sneaky")
    again(raw_folder(desk.workspace, "imagesTs") / "test_000_0000.nii.gz", "sneakier")
    again(desk.images / "unlabeled_001_0000.nii.gz", "a twin")
    again(desk.images / "unlabeled_002_0000.nii.gz", "z twin")
    outcome = desk.preprocess(num_processes=2)
    assert sorted(outcome.made) == ["a twin", "unlabeled_000", "unlabeled_002"]
    reasons = {line.split(": ")[0].rsplit("/", 1)[1]: line for line in outcome.refused}
    assert "the training case labeled_003" in reasons["sneaky_0000.nii.gz"]
    assert "the test case test_000" in reasons["sneakier_0000.nii.gz"]
    assert "the case a twin" in reasons["unlabeled_001_0000.nii.gz"]
    assert "the case unlabeled_002" in reasons["z twin_0000.nii.gz"]
    assert len(reasons) == 4
    desk.assert_complete(*outcome.made)
    assert list(desk.select().unlabeled) == sorted(outcome.made)


def test_a_case_that_got_a_label_leaves_the_unlabelled_ones(desk):
    desk.preprocess()
    training = raw_folder(desk.workspace, "imagesTr")
    shutil.copy(desk.images / "unlabeled_000_0000.nii.gz", training / "under another name_0000.nii.gz")
    shutil.move(desk.images / "unlabeled_001_0000.nii.gz", training)
    for case in ("under another name", "unlabeled_001"):
        shutil.copy(raw_folder(desk.workspace, "labelsTr") / "labeled_000.nii.gz",
                    raw_folder(desk.workspace, "labelsTr") / f"{case}.nii.gz")  # fmt: skip
    shutil.rmtree(desk.images)
    desk.images.mkdir()
    write_image(desk.images / "new_0000.nii.gz", noise(0))
    outcome = desk.preprocess()
    assert outcome.made == ["new"]
    desk.assert_complete("new", "unlabeled_002")
    assert desk.manifest().done("unlabelled") == ["new", "unlabeled_002"]


def test_copies_of_training_cases_do_not_see_the_labels(desk):
    desk.preprocess(training=True)
    cases = [f"labeled_{index:03d}" for index in range(5)]
    assert desk.manifest().done("training") == cases
    before = {case: desk.voxels(case) for case in cases}
    hashes = {case: record.voxel_hash for case, record in desk.manifest().cases.items()}
    for file in raw_folder(desk.workspace, "labelsTr").iterdir():
        labels = sitk.ReadImage(str(file))
        garbage = np.random.default_rng(0).integers(0, 5, labels.GetSize()[::-1]).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(garbage), str(file))
    outcome = desk.preprocess(training=True, overwrite=True)
    assert len(outcome.made) == 8
    for case in cases:
        for one, other in zip(before[case], desk.voxels(case), strict=True):
            np.testing.assert_array_equal(one, other)
    assert {case: record.voxel_hash for case, record in desk.manifest().cases.items()} == hashes


def test_parts_have_manifests_of_their_own_and_a_whole_call_takes_them_in(desk):
    first = desk.preprocess(training=True, part=(1, 2))
    assert first.made
    with pytest.raises(SemiSupervisedError, match=r"part 2 of 2 .* type: .* --part 2/2"):
        desk.select()
    second = desk.preprocess(training=True, part=(2, 2))
    assert second.made
    assert sorted(first.made + second.made) == sorted([*UNLABELED, *(f"labeled_{i:03d}" for i in range(5))])
    assert list(part_files(desk.workspace.dataset_folder, DATA_IDENTIFIER)) == [(1, 2), (2, 2)]
    assert desk.select().unlabeled == tuple(UNLABELED)
    assert desk.preprocess(training=True, part=(1, 2)).made == []

    merged = desk.manifest().cases
    outcome = desk.preprocess(training=True)
    assert (outcome.made, len(outcome.skipped)) == ([], 8)
    assert part_files(desk.workspace.dataset_folder, DATA_IDENTIFIER) == {}
    assert desk.manifest().cases == merged


def test_a_scan_that_arrives_between_two_parts_moves_no_other_case(desk):
    first = desk.preprocess(part=(1, 2))
    write_image(desk.images / "a_0000.nii.gz", noise(0))
    second = desk.preprocess(part=(2, 2))
    assert {*first.made, *second.made} >= set(UNLABELED)


def test_data_of_other_plans_is_refused_until_it_is_replaced(desk):
    desk.preprocess(training=True)
    shutil.rmtree(raw_folder(desk.workspace, "imagesUn"))
    other = desk.workspace.plans()
    other["configurations"]["3d_fullres"]["spacing"] = [6.0, 5.0, 5.0]
    with pytest.raises(SemiSupervisedError, match=r"other plans.*type: nnUNetv2_semisup preprocess.*--overwrite"):
        desk.select(other)
    with pytest.raises(SemiSupervisedError, match=r"other plans.*--overwrite"):
        desk.preprocess(training=True, plans=other)
    shape = desk.voxels("labeled_000")[0].shape
    desk.preprocess(training=True, plans=other, overwrite=True)
    assert desk.voxels("labeled_000")[0].shape != shape
    desk.assert_complete(*(f"labeled_{index:03d}" for index in range(5)))
    with pytest.raises(SemiSupervisedError, match=r"other plans"):
        desk.preprocess(training=True)


def test_folders_add_up_over_calls_and_may_move(desk, tmp_path):
    desk.preprocess()
    one, two = tmp_path / "one", tmp_path / "two"
    shutil.move(desk.images, one)
    before = snapshot(desk.folder)
    two.mkdir()
    write_image(two / "x_0000.nii.gz", noise(0))
    outcome = desk.preprocess(one, two)
    assert (outcome.made, sorted(outcome.skipped)) == (["x"], UNLABELED)
    assert {name: snapshot(desk.folder)[name] for name in before} == before

    # Another image under a known identifier is a mistake, unless it replaces the first.
    write_image(two / "unlabeled_000_0000.nii.gz", noise(1))
    outcome = desk.preprocess(two)
    assert outcome.skipped == ["x"]
    assert "has the same identifier" in outcome.refused[0]
    (one / "unlabeled_000_0000.nii.gz").unlink()
    assert desk.preprocess(two).made == ["unlabeled_000"]
    assert desk.manifest().done("unlabelled") == [*UNLABELED, "x"]
    write_image(one / "unlabeled_000_0000.nii.gz", noise(2))
    outcome = desk.preprocess(one, overwrite=True)
    assert (sorted(outcome.made), outcome.refused) == (UNLABELED, [])


def test_a_training_image_that_was_corrected_in_a_copied_dataset_is_made_again(desk, tmp_path):
    desk.preprocess(training=True)
    shutil.copytree(desk.workspace.root, tmp_path / "copied")
    copied = Desk(Workspace(tmp_path / "copied"))
    write_image(raw_folder(copied.workspace, "imagesTr") / "labeled_000_0000.nii.gz", noise(0))
    outcome = copied.preprocess(training=True)
    assert (outcome.made, outcome.refused) == (["labeled_000"], [])


def test_a_copy_elsewhere_serves_as_well_as_the_files_it_was_copied_from(desk, tmp_path):
    desk.preprocess()
    copies = tmp_path / "copies"
    shutil.copytree(desk.images, copies)
    other = desk.workspace.plans()
    other["configurations"]["3d_fullres"]["spacing"] = [6.0, 5.0, 5.0]
    outcome = desk.preprocess(copies, plans=other, overwrite=True)
    assert (sorted(outcome.made), outcome.refused) == (UNLABELED, [])
    (desk.folder / "unlabeled_000.pkl").unlink()
    outcome = desk.preprocess(desk.images, plans=other)
    assert (outcome.made, outcome.refused) == (["unlabeled_000"], [])


def test_a_case_whose_files_are_gone_is_made_again_or_forgotten(desk):
    desk.preprocess()
    (desk.folder / "unlabeled_000_seg.b2nd").unlink()
    (desk.folder / "unlabeled_001.pkl").unlink()
    with pytest.raises(SemiSupervisedError, match="unlabeled_000 is not in"):
        desk.select()
    (desk.images / "unlabeled_001_0000.nii.gz").unlink()
    outcome = desk.preprocess()
    assert (outcome.made, outcome.skipped) == (["unlabeled_000"], ["unlabeled_002"])
    desk.assert_complete("unlabeled_000", "unlabeled_002")
    assert desk.select().unlabeled == ("unlabeled_000", "unlabeled_002")


def test_an_image_that_was_archived_leaves_its_case_and_one_that_was_withdrawn_none(desk, capsys):
    desk.preprocess()
    (desk.images / "unlabeled_001_0000.nii.gz").unlink()
    (desk.images / "unlabeled_001_0000.nii.gz").symlink_to("/archive/unlabeled_001_0000.nii.gz")
    desk.preprocess()
    desk.assert_complete(*UNLABELED)
    (desk.images / "unlabeled_001_0000.nii.gz").unlink()
    desk.preprocess()
    said = capsys.readouterr().err
    assert "1 finished cases stay although their images have left the folder, unlabeled_001 first" in said
    desk.assert_complete(*UNLABELED)

    copy = desk.folder / "unlabeled_001.b2nd"
    assert str(copy) in said
    copy.unlink()
    desk.preprocess()
    assert "have left the folder" not in capsys.readouterr().err
    desk.assert_complete("unlabeled_000", "unlabeled_002")
    assert desk.select().unlabeled == ("unlabeled_000", "unlabeled_002")


def test_two_calls_at_once_do_not_meet(desk, monkeypatch):
    lock = manifest_file(desk.workspace.dataset_folder, DATA_IDENTIFIER).with_suffix(".lock")
    said = []
    monkeypatch.setattr("nnunetv2_semisup.data.preprocessing._say", said.append)
    is_held = Event()

    def another_call():
        with held(lock, lambda: None):
            is_held.set()
            while not said:
                time.sleep(0.05)
            return desk.folder.exists()

    with ThreadPoolExecutor(1) as threads:
        has_begun = threads.submit(another_call)
        is_held.wait()
        assert desk.preprocess().made == UNLABELED
    assert not has_begun.result()
    assert said == [f"another process is preprocessing for {desk.folder}; waiting for its end"]


def test_what_a_training_says_to_type_names_all_folders(desk, tmp_path):
    one = tmp_path / "one more"
    one.mkdir()
    write_image(one / "x_0000.nii.gz", noise(0))
    desk.preprocess(desk.images, one, training=True)
    (desk.folder / "x.pkl").unlink()
    with pytest.raises(SemiSupervisedError) as error:
        desk.select()
    words = shlex.split(str(error.value).split("type: nnUNetv2_semisup ")[1])
    arguments = build_parser().parse_args(words)
    assert arguments.folders == [one, desk.images] or arguments.folders == [desk.images, one]
    assert arguments.training
    assert desk.preprocess(*arguments.folders, training=True).made == ["x"]


def test_a_full_disk_ends_the_call(desk, monkeypatch):
    usage = shutil.disk_usage(desk.images)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: replace_free(usage, 1000))
    (desk.images / "a_0000.nii.gz").write_bytes(b"x")
    with pytest.raises(SemiSupervisedError, match="no space left"):
        desk.preprocess()
    assert active_children() == []
    assert not list(desk.folder.glob("unfinished*"))


def test_what_killed_calls_left_unfinished_is_swept_and_what_others_are_at_is_not(desk):
    left, of_a_part = desk.folder / "unfinished.0", desk.folder / "unfinished_part_1_of_2.0"
    for folder in (left, of_a_part):
        folder.mkdir(parents=True)
        (folder / "unlabeled_000.b2nd").write_bytes(b"x")
    write_image(desk.images / "unfinished_0000.nii.gz", noise(0))
    desk.preprocess()
    assert desk.preprocess().skipped == ["unfinished", *UNLABELED]
    assert [file for file in desk.folder.iterdir() if file.is_dir()] == [of_a_part]


def replace_free(usage, free):
    return type(usage)(usage.total, usage.total - free, free)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_after_any_end_a_call_goes_on_where_it_was(desk, number, status):
    count = 60
    for index in range(count):
        write_image(desk.images / f"case{index:02d}_0000.nii.gz", noise(index, (24, 32, 32)))
    command = [sys.executable, "-m", "nnunetv2_semisup.cli.main", "preprocess", "-d", "901", "-c", "3d_fullres"]
    process = subprocess.Popen([*command, "-np", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 300
    while not list(desk.folder.glob("*.pkl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    children = psutil.Process(process.pid).children(recursive=True)
    if number == signal.SIGINT:  # as a terminal sends it
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    errors = process.communicate()[1]
    assert process.returncode == status
    assert psutil.wait_procs(children, timeout=20)[1] == []

    finished = sorted(file.stem for file in desk.folder.glob("*.pkl"))
    assert 0 < len(finished) < count
    for identifier in finished:
        assert set(snapshot(desk.folder)) >= set(case_files(identifier))
        desk.voxels(identifier)
    if number != signal.SIGKILL:
        assert not list(desk.folder.glob("unfinished*"))
        assert "Traceback" not in errors
    with pytest.raises(SemiSupervisedError, match=r"interrupted.*type the preprocessing command again"):
        desk.select()

    before = {name: stamp for name, stamp in snapshot(desk.folder).items() if name.endswith(".pkl")}
    outcome = desk.preprocess(num_processes=2)
    everything = [*(f"case{index:02d}" for index in range(count)), *UNLABELED]
    assert {name: snapshot(desk.folder)[name] for name in before} == before
    assert sorted(outcome.made + outcome.skipped) == sorted(everything)
    desk.assert_complete(*everything)
    assert list(desk.select().unlabeled) == sorted(everything)

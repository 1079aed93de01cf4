"""Maps, overlays, table and page of a folder of images."""

import csv
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.clusters import clusters
from nnunetv2_semisup.evaluation.clusters.clusters import SHOWN, write_clusters
from nnunetv2_semisup.evaluation.clusters.purity import measure
from tests.browser import assert_readable, browser, require_browser
from tests.evaluation.clusters.models import make_model
from tests.evaluation.clusters.test_prediction import oblique
from tests.workspace import DATASET, TINY, make_workspace

CPU = torch.device("cpu")


def array(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


@pytest.fixture(scope="module")
def model(toy) -> Path:
    return make_model(toy, name="written", intensity=True)


@pytest.fixture(scope="module")
def images(toy, tmp_path_factory) -> Path:
    """The training and test images, one oblique image without labels, and one whose labels are of another size."""
    folder = tmp_path_factory.mktemp("images")
    raw = toy.root / "raw" / DATASET
    for file in [*(raw / "imagesTr").iterdir(), *(raw / "imagesTs").iterdir()]:
        shutil.copy(file, folder)
    oblique(folder / "a_scan_0000.nii.gz")
    shutil.copy(folder / "a_scan_0000.nii.gz", folder / "labeled_001_0000.nii.gz")
    return folder


@pytest.fixture(scope="module")
def written(toy, model: Path, images: Path, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("clusters") / "out"
    with toy.active():
        done = write_clusters(model, "0", images, target, CPU)
    assert done.page == target / "clusters.html"
    assert (done.n_cases, done.n_labeled) == (7, 5)
    return target


def test_every_case_has_maps_on_its_own_grid_and_an_overlay(images: Path, written: Path):
    names = {file.name.replace("_0000", "") for file in images.iterdir()}
    files = {str(file.relative_to(written)) for file in written.rglob("*") if file.is_file()}
    overlays = {f"overlays/{name.replace('.nii.gz', '.png')}" for name in names}
    assert files == names | {f"sub_head_2/{name}" for name in names} | overlays | {"clusters.html", "purity.csv"}
    for name in names:
        image = sitk.ReadImage(str(images / name.replace(".nii.gz", "_0000.nii.gz")))
        for folder in (written, written / "sub_head_2"):
            found = sitk.ReadImage(str(folder / name))
            assert found.GetSize() == image.GetSize()
            for what in ("GetSpacing", "GetOrigin", "GetDirection"):
                np.testing.assert_allclose(getattr(found, what)(), getattr(image, what)(), atol=1e-6)
            assert set(np.unique(sitk.GetArrayFromImage(found))) == {0, 1}
    # Bright and dark have changed places.
    assert (array(written / "a_scan.nii.gz") + array(written / "sub_head_2" / "a_scan.nii.gz") == 1).mean() > 0.99
    assert np.asarray(Image.open(written / "overlays" / "a_scan.png")).std() > 20


def test_the_table_is_that_of_the_files(toy, written: Path):
    with (written / "purity.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    cases = ["labeled_000", "labeled_002", "labeled_003", "labeled_004", "test_000"]
    assert [(row["case"], row["sub_head"]) for row in rows] == [(case, head) for case in cases for head in "12"]
    for row in rows:
        folder = written if row["sub_head"] == "1" else written / "sub_head_2"
        labels = "labelsTs" if row["case"].startswith("test") else "labelsTr"
        truth = array(toy.root / "raw" / DATASET / labels / f"{row['case']}.nii.gz")
        found = array(folder / f"{row['case']}.nii.gz")
        expected = measure("", 0, found, truth, 3, range(5))
        assert float(row["purity"]) == pytest.approx(expected.purity, abs=6e-5)
        assert float(row["foreground_dice"]) == pytest.approx(expected.foreground_dice, abs=6e-5)


def test_the_page_shows_labelled_cases_first_and_says_what_was_left_out(toy, written: Path):
    page = unescape((written / "clusters.html").read_text())
    shown = re.findall("<h3>(.*?)</h3>", page)
    assert len(shown) == SHOWN
    assert {"labeled_000", "labeled_002", "labeled_003", "labeled_004", "test_000"} <= set(shown)
    assert page.count("<div class='strip'>") == 3 * SHOWN
    assert "labeled_001.nii.gz has another size than the image labeled_001" in page
    assert "3 clusters, 2 sub-heads, 7 cases, 6 shown" in page
    sources = re.findall(r"\b(?:src|href)='([^']*)'", page)
    assert len(sources) > 6 * 3 * 5
    assert all(source.startswith("data:") for source in sources)
    assert "http" not in page


def test_the_page_in_a_browser(written: Path, tmp_path: Path):
    require_browser()
    page = written / "clusters.html"
    with browser(tmp_path) as tab:
        for width in (1280, 400):
            tab.open(page, width)
            assert_readable(tab, width)
            seen = "[...document.images].filter(image => image.offsetParent)"
            assert tab.evaluate(f"{seen}.every(image => image.complete && image.naturalWidth > 0)")
            assert tab.evaluate(f"Math.min(...{seen}.map(image => image.getBoundingClientRect().width))") >= 100
        tab.evaluate("const s = document.getElementById('sub-head'); s.value = 2; s.dispatchEvent(new Event('input'))")
        assert tab.evaluate("[...document.querySelectorAll('[data-sub-head]')].filter(d => !d.hidden).length") == 18
        for _ in range(500):
            if tab.evaluate("document.body.dataset.painted") == "0/2":
                break
        assert tab.evaluate("document.body.dataset.painted") == "0/2"
        assert [url for url in tab.requests if not url.startswith("data:")] == [page.absolute().as_uri()] * 2
        assert tab.errors == []


def test_without_the_raw_dataset_there_is_no_table(model: Path, images: Path, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(images / "labeled_000_0000.nii.gz", one)
    assert write_clusters(model, "0", one, tmp_path / "out", CPU).n_labeled == 0
    assert not (tmp_path / "out" / "purity.csv").exists()
    assert "Clusters against labels" not in (tmp_path / "out" / "clusters.html").read_text()


def test_a_training_that_has_run_and_one_that_runs(toy, images: Path, tmp_path: Path):
    """After three epochs of each trainer; the second has only its latest checkpoint."""
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(images / "test_000_0000.nii.gz", one)
    for trainer in ("nnUNetTrainerBIMPretrain", "nnUNetTrainerBIM"):
        with toy.active():
            made = toy.trainer(trainer, TINY, plans_name="ran")
            made.run_training()
        file = Path(made.output_folder) / "checkpoint_final.pth"
        if trainer == "nnUNetTrainerBIM":
            file.rename(file.with_name("checkpoint_latest.pth"))
        target = tmp_path / trainer
        write_clusters(Path(made.output_folder_base), "0", one, target, CPU)
        assert (target / "sub_head_3" / "test_000.nii.gz").exists()
        assert array(target / "test_000.nii.gz").max() < 40
        page = (target / "clusters.html").read_text()
        assert "after 3 epochs: 40 clusters, 3 sub-heads" in page


def test_pictures_in_2d(tmp_path: Path):
    workspace = make_workspace(
        tmp_path / "work", configurations=("2d",), n_unlabeled=2, shape=(48, 56), spacing=(1, 1), channels=3,
        file_ending=".png",
    )  # fmt: skip
    folder = make_model(workspace, configuration="2d", intensity=True)
    target = tmp_path / "out"
    with workspace.active():
        done = write_clusters(folder, "0", workspace.root / "raw" / DATASET / "imagesTs", target, CPU)
    assert done.n_labeled == done.n_cases == 1
    assert np.asarray(Image.open(target / "test_000.png")).shape == (48, 56)
    assert (target / "clusters.html").read_text().count("<div class='strip'>") == 1


def test_a_full_disk_leaves_nothing(model: Path, images: Path, tmp_path: Path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(images / "test_000_0000.nii.gz", one)
    monkeypatch.setattr(clusters, "png", full)
    with pytest.raises(SemiSupervisedError, match="No space left on device"):
        write_clusters(model, "0", one, tmp_path / "deep" / "out", CPU)
    assert list((tmp_path / "deep").iterdir()) == []

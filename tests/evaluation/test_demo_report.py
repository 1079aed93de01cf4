import json
import re

import numpy as np
import pytest
import SimpleITK
import torch

from nnunetv2_semisup.data.synthetic import make_dataset
from nnunetv2_semisup.evaluation.demo import SMALL_PLANS, TRAINERS, Finished, open_demo
from nnunetv2_semisup.evaluation.demo_report import headline, label_names, write_report
from nnunetv2_semisup.evaluation.dice import DiceScores
from nnunetv2_semisup.evaluation.paired import PairedDifference

pytestmark = pytest.mark.fast
CASES = ("test_000", "test_001", "test_002", "test_003")
LABELS = ("liver", "kidney", "vessel", "lesion")


@pytest.fixture
def finished_demo(tmp_path):
    """The folder of a demo that has run, without the running."""
    demo = open_demo(tmp_path / "demo")
    demo.about = "3 labelled <and> 20 unlabelled patients"
    demo.finished = [Finished("make the dataset", "", 1.0), Finished("train", "nnUNetv2_train 901 -o 'a & b'", 61.0)]
    make_dataset(demo.raw, n_labeled=1, n_unlabeled=1, n_test=len(CASES), shape=(12, 16, 16), spacing=(2, 1, 1))
    for trainer in TRAINERS:
        demo.predictions(trainer).mkdir(parents=True)
        for case in CASES:
            truth = SimpleITK.ReadImage(str(demo.raw / "labelsTs" / f"{case}.nii.gz"))
            SimpleITK.WriteImage(truth, str(demo.predictions(trainer) / f"{case}.nii.gz"))
        demo.fold_folder(trainer).mkdir(parents=True)
        stock = dict.fromkeys(("network_weights", "init_args", "trainer_name"), "x")
        logging = {"train_losses": [0.5, np.float32(0.25)], "mean_fg_dice": [np.float64(0.1), 0.2]}
        torch.save(stock | {"logging": logging}, demo.fold_folder(trainer) / "checkpoint_final.pth")
    log = "epoch,raw/consistency,weighted/consistency,grad/consistency,sign/agreement\n0,,,,\n1,0.02,0.2,0.01,0.7\n"
    (demo.fold_folder("nnUNetTrainerMIReg") / "semisup_log.csv").write_text(log)
    preprocessed = demo.folder / "nnUNet_preprocessed" / demo.dataset
    preprocessed.mkdir(parents=True)
    settings = {"patch_size": [32, 32, 32], "architecture": {"arch_kwargs": {"features_per_stage": [12, 24, 48]}}}
    (preprocessed / f"{SMALL_PLANS}.json").write_text(json.dumps({"configurations": {"3d_fullres": settings}}))
    return demo


def scores(shift):
    baseline = np.linspace(0.3, 0.8, len(CASES) * len(LABELS)).reshape(len(CASES), len(LABELS))
    baseline[0, 3] = np.nan
    values = {"nnUNetTrainerLabeledOnly": baseline, "nnUNetTrainerMIReg": baseline + np.asarray(shift)[:, None]}
    return {name: DiceScores(CASES, LABELS, value) for name, value in values.items()}


def test_page_needs_nothing_beside_it(finished_demo):
    page = write_report(finished_demo, scores([0.1, 0.1, 0.1, 0.1])).read_text()
    assert "http" not in page
    assert not re.search(r"<script|<iframe|<object|<link(?! rel='icon' href='data:,')|@import|@font-face|url\(", page)
    sources = re.findall(r"\b(?:src|href|srcset|data|poster)\s*=\s*['\"]([^'\"]*)", page)
    assert len(sources) > 20
    assert all(source.startswith("data:") for source in sources)
    assert not list(finished_demo.folder.glob("*.tmp"))


def test_page_shows_numbers_pictures_curves_and_commands(finished_demo):
    page = write_report(finished_demo, scores([0.1, 0.2, 0.0, 0.1])).read_text()
    for text in (
        "3 labelled &lt;and&gt; 20 unlabelled patients",
        "better on 3 of 4 cases",
        "Mean difference +0.100 Dice",
        "12, 24, 48 features, patches of 32 x 32 x 32",
        "nnUNetv2_train 901 -o &#x27;a &amp; b&#x27;",
        "# train: 1:01",
        "export nnUNet_extTrainer=&quot;$(nnUNetv2_semisup trainers)&quot;",
    ):
        assert text in page, text
    for column in ("raw/consistency", "weighted/consistency", "grad/consistency", "sign/agreement"):
        assert f"aria-label='{column}'" in page
    assert page.count("<polyline") == 4  # supervised loss and pseudo Dice of both; one logged epoch is a dot
    assert page.count("<div class='strip'>") == 2 * 3
    assert [case in page for case in ("test_001, difference +0.200", "test_002, difference +0.000")] == [True, True]


@pytest.mark.parametrize(
    ("shift", "expected", "verdict"),
    [
        ([0.1, 0.1, 0.1, 0.1], "raised", "lies above 0"),
        ([-0.1, -0.1, -0.1, -0.1], "did harm", "did worse"),
        ([-0.1, 0.1, -0.1, 0.1], "no clear difference", "contains 0"),
    ],
)
def test_page_says_what_the_numbers_say(finished_demo, shift, expected, verdict):
    page = write_report(finished_demo, scores(shift)).read_text()
    assert expected in re.search("<h1>(.*?)</h1>", page).group(1)
    assert verdict in page


def test_headline_and_pictures_are_of_the_cases_that_have_a_value(finished_demo):
    """nnU-Net's mean of the structures' means would say 0.2 less for the better one."""
    nan = np.nan
    baseline = np.array([[0.5, nan, nan, nan], [0.5, nan, nan, nan], [0.5, nan, nan, 0.9], [nan] * 4])
    method = np.array([[0.7, nan, nan, nan], [0.7, nan, nan, nan], [0.7, nan, nan, 0.1], [nan] * 4])
    values = dict(zip(("nnUNetTrainerLabeledOnly", "nnUNetTrainerMIReg"), (baseline, method), strict=True))
    assert all(value.shape == (len(CASES), len(LABELS)) for value in values.values())
    demo = {name: DiceScores(CASES, LABELS, value) for name, value in values.items()}
    page = write_report(finished_demo, demo).read_text()
    assert "Dice 0.567 without, 0.600 with" in re.search("<h1>(.*?)</h1>", page).group(1)
    assert "nan" not in "".join(re.findall("<h3>(.*?)</h3>", page))


def test_an_interval_that_touches_0_claims_nothing():
    assert "no clear difference" in headline(0.5, 0.6, PairedDifference(0.1, 0.0, 0.2, 5, 6))


def test_values_in_a_file_are_named_after_the_smallest_region():
    assert label_names({"background": 0, "a": 1, "b": 2}) == {1: "a", 2: "b"}
    regions = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3], "ignore": 4}
    assert label_names(regions) == {1: "whole", 2: "core", 3: "enhancing", 4: "ignore"}

import json
import os
import shutil

import numpy as np
import pytest

from nnunetv2_semisup.data.synthetic import make_dataset
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation import demo as demo_module
from nnunetv2_semisup.evaluation.demo import (
    TRAINERS,
    Finished,
    demo_environment,
    demo_steps,
    foreground_table,
    open_demo,
    run_demo,
)
from nnunetv2_semisup.evaluation.demo_data import make_demo_dataset
from nnunetv2_semisup.evaluation.dice import DiceScores
from nnunetv2_semisup.evaluation.steps import Step

pytestmark = pytest.mark.fast
SMALL = {"shape": (8, 12, 12), "spacing": (2, 2, 2)}


@pytest.fixture
def user_dataset(tmp_path):
    def make(n_labeled=5, n_unlabeled=2, n_test=0, name="Dataset017_Mine", **kwargs):
        folder = tmp_path / "theirs" / name
        make_dataset(folder, n_labeled=n_labeled, n_unlabeled=n_unlabeled, n_test=n_test, **(SMALL | kwargs))
        return folder

    return make


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestFolder:
    def test_a_new_one_is_made_and_known_again(self, tmp_path):
        demo = open_demo(tmp_path / "demo")
        demo.about = "three patients"
        demo.finished.append(Finished("make the dataset", "", 1.5))
        demo.save()
        again = open_demo(tmp_path / "demo")
        assert again == demo

    def test_something_else_is_refused_and_stays(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(SemiSupervisedError, match=r"no folder of a demo.* -o DIR"):
            open_demo(tmp_path)
        assert os.listdir(tmp_path) == ["thesis.txt"]

    def test_a_file_is_refused(self, tmp_path):
        (tmp_path / "demo").write_text("a file")
        with pytest.raises(SemiSupervisedError, match="no folder of a demo"):
            open_demo(tmp_path / "demo")

    def test_a_folder_that_cannot_be_made_is_one_clear_line(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(SemiSupervisedError, match=r"cannot write to .*name another folder: -o DIR"):
            open_demo(tmp_path / "file" / "demo")

    def test_the_demo_of_another_dataset_is_refused_and_stays(self, tmp_path, user_dataset):
        open_demo(tmp_path / "demo").save()
        (tmp_path / "demo" / "index.html").write_text("results")
        with pytest.raises(SemiSupervisedError, match="holds the demo of the synthetic dataset"):
            open_demo(tmp_path / "demo", user_dataset())
        assert (tmp_path / "demo" / "index.html").exists()

    def test_a_demo_of_other_code_starts_over_and_spares_what_is_not_the_demos(self, tmp_path, monkeypatch):
        demo = open_demo(tmp_path / "demo")
        demo.finished.append(Finished("make the dataset", "", 1.0))
        demo.save()
        for name in ("nnUNet_raw/x", "logs", "notes"):
            (demo.folder / name).mkdir(parents=True)
        monkeypatch.setattr(demo_module, "_code_hash", lambda: "another version")
        assert open_demo(tmp_path / "demo").finished == []
        assert sorted(os.listdir(demo.folder)) == ["nnunetv2_semisup_demo.json", "notes"]


class TestUserDataset:
    def test_without_unseen_cases_the_last_labelled_ones_are_held_out(self, tmp_path, user_dataset):
        source = user_dataset(n_labeled=9)
        before = snapshot(source)
        about = make_demo_dataset(source, tmp_path / "demo" / source.name)
        target = tmp_path / "demo" / source.name
        assert "labeled_007, labeled_008" in about
        assert "7 labelled and 2 unlabelled" in about
        assert sorted(os.listdir(target / "labelsTs")) == ["labeled_007.nii.gz", "labeled_008.nii.gz"]
        assert len(os.listdir(target / "imagesTr")) == len(os.listdir(target / "labelsTr")) == 7
        assert not set(os.listdir(target / "imagesTr")) & set(os.listdir(target / "imagesTs"))
        assert json.loads((target / "dataset.json").read_text())["numTraining"] == 7
        assert len(os.listdir(target / "imagesUn")) == 2
        shutil.rmtree(target)
        assert snapshot(source) == before

    def test_cases_of_images_ts_with_labels_are_the_unseen_ones(self, tmp_path, user_dataset):
        source = user_dataset(n_labeled=2, n_test=3)
        (source / "labelsTs" / "test_001.nii.gz").unlink()
        about = make_demo_dataset(source, tmp_path / "demo")
        assert "2 unseen cases from imagesTs" in about
        assert sorted(os.listdir(tmp_path / "demo" / "imagesTs")) == ["test_000_0000.nii.gz", "test_002_0000.nii.gz"]
        assert len(os.listdir(tmp_path / "demo" / "imagesTr")) == 2

    def test_channels_stay_in_order(self, tmp_path, user_dataset):
        source = user_dataset(n_labeled=4, channels=2)
        make_demo_dataset(source, tmp_path / "demo")
        for group in ("Tr", "Ts", "Un"):
            for link in (tmp_path / "demo" / f"images{group}").iterdir():
                assert link.resolve().name == link.name

    def test_an_unlabelled_image_keeps_the_number_of_its_channel(self, tmp_path, user_dataset):
        """So that a case without its first channel is refused, and not taken for one without its last."""
        source = user_dataset(n_labeled=4, channels=2)
        (source / "imagesUn" / "unlabeled_000_0000.nii.gz").unlink()
        make_demo_dataset(source, tmp_path / "demo")
        names = [name for name in os.listdir(tmp_path / "demo" / "imagesUn") if name.startswith("unlabeled_000")]
        assert names == ["unlabeled_000_0001.nii.gz"]

    def test_a_dataset_json_that_lists_its_files_is_followed(self, tmp_path, user_dataset):
        source = user_dataset(n_labeled=4)
        (source / "imagesTr").rename(source / "scans")
        dataset = json.loads((source / "dataset.json").read_text())
        dataset["dataset"] = {
            f"p{i}": {"images": [f"scans/labeled_{i:03d}_0000.nii.gz"], "label": f"labelsTr/labeled_{i:03d}.nii.gz"}
            for i in range(4)
        }
        (source / "dataset.json").write_text(json.dumps(dataset))
        make_demo_dataset(source, tmp_path / "demo")
        assert sorted(os.listdir(tmp_path / "demo" / "imagesTr")) == ["p0_0000.nii.gz", "p1_0000.nii.gz"]
        assert "dataset" not in json.loads((tmp_path / "demo" / "dataset.json").read_text())

    @pytest.mark.parametrize(
        ("counts", "message"),
        [
            ({"n_labeled": 3}, "leaves 1 labelled cases"),
            ({"n_labeled": 1, "n_test": 2}, "leaves 1 labelled cases"),
            ({"n_unlabeled": 0}, r"imagesUn holds no \*.nii.gz; put the unlabelled images there"),
        ],
    )
    def test_too_few_cases_are_one_clear_line(self, tmp_path, user_dataset, counts, message):
        with pytest.raises(SemiSupervisedError, match=message) as error:
            make_demo_dataset(user_dataset(**counts), tmp_path / "demo")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "demo").exists()

    @pytest.mark.parametrize("name", ["Mine", "Dataset12_Mine"])
    def test_what_is_no_raw_dataset_is_refused_before_anything_is_made(self, tmp_path, user_dataset, name):
        with pytest.raises(SemiSupervisedError, match="no raw nnU-Net dataset"):
            open_demo(tmp_path / "demo", user_dataset(name=name))
        with pytest.raises(SemiSupervisedError, match="no raw nnU-Net dataset"):
            open_demo(tmp_path / "demo", tmp_path / "Dataset018_Nowhere")
        assert not (tmp_path / "demo").exists()

    def test_2d_images_are_trained_in_2d(self, tmp_path, user_dataset):
        source = user_dataset(shape=(24, 32), spacing=(1, 1), file_ending=".png")
        demo = open_demo(tmp_path / "demo", source)
        assert demo.configuration == "2d"
        commands = [step.line for step in demo_steps(demo, "cpu") if isinstance(step, Step)]
        assert "nnUNetv2_plan_and_preprocess -d 17 -c 2d -np 2 -npfp 2" in commands


class TestChain:
    def test_environment_points_into_the_folder_and_leaves_ours_alone(self, tmp_path, monkeypatch):
        monkeypatch.setenv("nnUNet_raw", "/mine")
        monkeypatch.setenv("nnUNet_wandb_enabled", "1")
        demo = open_demo(tmp_path / "demo")
        environment = demo_environment(demo)
        assert environment["nnUNet_raw"] == str(demo.folder / "nnUNet_raw")
        assert environment["nnUNet_results"] == str(demo.folder / "nnUNet_results")
        assert environment["nnUNet_wandb_enabled"] == "0"
        assert os.listdir(environment["nnUNet_extTrainer"]).count("nnunetv2_semisup_trainers.py") == 1
        assert os.environ["nnUNet_raw"] == "/mine"

    def test_both_arms_differ_in_trainer_and_method_only(self, tmp_path):
        steps = [step for step in demo_steps(open_demo(tmp_path / "demo"), "cpu") if isinstance(step, Step)]
        for verb in ("plan -d", "nnUNetv2_train", "nnUNetv2_predict"):
            first, second = (step.line for step in steps if verb in step.line)
            (trainer, method), (other_trainer, other_method) = TRAINERS.items()
            assert first.replace(trainer, other_trainer).replace(method, other_method) == second

    def test_finished_steps_are_not_run_again(self, tmp_path, monkeypatch, capsys):
        demo = open_demo(tmp_path / "demo")
        demo.about = "everything is done"
        demo.finished = [Finished(step.title, "", 1.0) for step in demo_steps(demo, "cpu")]
        monkeypatch.setattr(demo_module, "_dice", lambda demo, trainer: trainer)
        assert run_demo(demo, "cpu") == {trainer: trainer for trainer in TRAINERS}
        assert capsys.readouterr().err.count("done before") == len(demo.finished)

    def test_a_failed_step_is_run_again_and_those_before_it_are_not(self, tmp_path, monkeypatch):
        demo = open_demo(tmp_path / "demo")
        steps = [
            Step("first", ("python", "-c", "open('first', 'a').write('x')")),
            Step("second", ("python", "-c", "import os; os.path.exists('ready') or exit('not yet')")),
        ]
        monkeypatch.setattr(demo_module, "demo_steps", lambda demo, device: steps)
        monkeypatch.setattr(demo_module, "_dice", lambda demo, trainer: trainer)
        with pytest.raises(SemiSupervisedError, match="not yet"):
            run_demo(demo, "cpu")
        (demo.folder / "ready").touch()
        run_demo(open_demo(tmp_path / "demo"), "cpu")
        assert (demo.folder / "first").read_text() == "x"


def test_table_lines_begin_with_the_class_name():
    scores = {
        "nnUNetTrainerLabeledOnly": DiceScores(("a",), ("liver", "a long name"), np.array([[0.8, 0.4]])),
        "nnUNetTrainerMIReg": DiceScores(("a",), ("liver", "a long name"), np.array([[0.9, np.nan]])),
    }
    heading, first, second = foreground_table(scores)
    assert heading.split("  ")[0] == ""
    assert first.split() == ["nnUNetTrainerLabeledOnly", "0.600", "0.800", "0.400"]
    assert second.split() == ["nnUNetTrainerMIReg", "0.900", "0.900", "nan"]
    assert len(heading) == len(first) == len(second)

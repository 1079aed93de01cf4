"""Whole comparisons of copies of real trainings: what is refused, why, and what is in the table."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.comparison.compare import compare
from nnunetv2_semisup.evaluation.comparison.metrics import structure_scores
from tests.evaluation.comparison.conftest import TRAIN, VAL


def rows(comparison):
    return [result.row.title for result in comparison.results]


def reason(lab, run, **options):
    """Why `run` is refused beside a good baseline and a good method."""
    good = [lab.run(errors=0.3, name="good"), lab.run("EntropyMin", errors=0.2, name="good")]
    comparison = compare([*good, run], options.get("allowed", []))
    assert rows(comparison) == ["LabeledOnly, 2 labels", "EntropyMin, 2 labels"]
    (refused,) = comparison.refused
    assert refused.name.split("/")[0] in str(run)
    assert "\n" not in refused.reason
    return refused.reason


def edited(**changes):
    """A change of the checkpoint's cases, e.g. unlabeled=[...]."""
    return lambda checkpoint: checkpoint["semisup"]["cases"].update(changes)


def test_the_trainings_themselves(lab):
    """As they were trained: nothing is copied or changed, and nothing is refused."""
    comparison = compare(list(lab.trained.values()), [])
    assert rows(comparison) == ["LabeledOnly, 2 labels", "EntropyMin, 2 labels"]
    assert comparison.refused == []
    assert comparison.cases == tuple(VAL)
    summary = json.loads((lab.trained["EntropyMin"] / "validation" / "summary.json").read_text())
    names = comparison.structures[1:]
    for number, case in enumerate(summary["metric_per_case"]):
        for structure, label in enumerate(case["metrics"]):
            assert names[structure]
            stock = case["metrics"][label]
            if stock["n_ref"]:
                ours = comparison.results[1].values[0, number, 1 + structure]
                assert ours[:2] == pytest.approx((stock["Dice"], stock["IoU"]))


def test_seeds_labels_and_segmentations_from_elsewhere_make_rows(lab):
    runs = [lab.run(errors=0.4, seed=seed) for seed in range(3)]
    runs += [lab.run("EntropyMin", errors=0.3, seed=seed) for seed in range(3)]
    runs += [lab.run(errors=0.1, labels="all"), lab.segmentations("peers method", 0.2)]
    comparison = compare(runs, [])
    assert rows(comparison) == [
        "LabeledOnly, 2 labels",
        "EntropyMin, 2 labels",
        "peers method",
        "LabeledOnly, all labels",
    ]
    baseline, method, external, full = comparison.results
    assert [len(result.row.seeds) for result in comparison.results] == [3, 3, 1, 1]
    assert baseline.difference is None
    assert [result.difference.pairs for result in (method, external, full)] == [3, 1, 1]
    for result in (method, external, full):
        np.testing.assert_allclose(
            result.difference.intervals[0][0].mean, result.mean[0, 0] - baseline.mean[0, 0], atol=1e-9
        )
        assert result.difference.intervals[0][0].low > 0
    expected = (method.mean[0, 0] - baseline.mean[0, 0]) / (full.mean[0, 0] - baseline.mean[0, 0])
    assert method.difference.share.mean == pytest.approx(expected, abs=1e-5)
    assert full.difference.share is None
    assert any("EntropyMin" not in line and "peers method" in line for line in comparison.warnings)
    assert any("Fewer than 10 cases" in line for line in comparison.warnings)
    assert comparison.refused == []


def test_values_are_those_of_each_file(lab):
    comparison = compare([lab.run(errors=0.4), lab.segmentations("peer", 0.2, seed=0)], [])
    truth = sitk.ReadImage(str(lab.truth / f"{VAL[2]}.nii.gz"))
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(lab.copies / "peer" / "seed_0" / f"{VAL[2]}.nii.gz")))
    spacing = truth.GetSpacing()[::-1]
    expected = [structure_scores(sitk.GetArrayFromImage(truth) == n, ours == n, spacing) for n in (1, 2, 3, 4)]
    values = comparison.results[1].values[0, 2]
    np.testing.assert_allclose(values[1:], expected)
    np.testing.assert_allclose(values[0], np.mean(expected, axis=0))


class TestRefusals:
    def test_other_validation_cases(self, lab):
        run = lab.run("EntropyMin", seed=1, change=edited(val=[*VAL[:3], TRAIN[3]], unlabeled=["unlabeled_000"]))
        assert reason(lab, run) == "it validates on other cases than LabeledOnly: 2 differ, e.g. labeled_003"

    def test_another_dataset(self, lab):
        def change(checkpoint):
            checkpoint["init_args"]["plans"]["dataset_name"] = "Dataset902_Other"

        assert "it is a run on Dataset902_Other" in reason(lab, lab.run("EntropyMin", seed=1, change=change))

    def test_another_number_of_labelled_samples(self, lab):
        def change(checkpoint):
            checkpoint["current_epoch"] = 4

        run = lab.run("EntropyMin", seed=1, change=change)
        record = {"checkpoint": "checkpoint_final.pth", "epoch": 4}
        (run / "validation" / "semisup_validation.json").write_text(json.dumps(record))
        assert reason(lab, run) == "it saw 8 labelled samples, LabeledOnly 4"

    def test_a_short_baseline_is_no_measure_of_the_others(self, lab):
        def change(checkpoint):
            checkpoint["current_epoch"] = 1

        run = lab.run(seed=1, change=change, name="a_test")
        record = {"checkpoint": "checkpoint_final.pth", "epoch": 1}
        (run / "validation" / "semisup_validation.json").write_text(json.dumps(record))
        good = [lab.run(errors=0.3, seed=seed, name="good") for seed in (0, 2)]
        comparison = compare([run, *good, lab.run("EntropyMin", errors=0.2, name="good")], [])
        assert rows(comparison) == ["LabeledOnly, 2 labels", "EntropyMin, 2 labels"]
        assert [refused.reason for refused in comparison.refused] == ["it saw 2 labelled samples, LabeledOnly 4"]

    def test_a_baseline_of_all_folds_that_has_seen_what_it_validates_on(self, lab):
        both = sorted([*TRAIN, *VAL])
        run = lab.run(seed=1, change=edited(labeled=both, val=both), name="a_fold_all")
        assert "it validates on other cases than LabeledOnly" in reason(lab, run)

    def test_other_labelled_cases_of_the_same_seed(self, lab):
        run = lab.run("EntropyMin", seed=0, change=edited(labeled=[TRAIN[0], TRAIN[3]]))
        assert "its labelled cases are not those of LabeledOnly with the same seed" in reason(lab, run)

    def test_a_number_of_labels_without_a_baseline(self, lab):
        run = lab.run("EntropyMin", seed=0, change=edited(labeled=TRAIN[:1]))
        assert reason(lab, run) == "there is no run of LabeledOnly with 1 cases labelled to compare it with"

    def test_a_selected_checkpoint(self, lab):
        run = lab.run("EntropyMin", seed=1)
        (run / "validation" / "semisup_validation.json").write_text('{"checkpoint": "checkpoint_best.pth"}')
        assert "checkpoint_best.pth, which was selected by validation" in reason(lab, run)

    def test_a_selected_checkpoint_from_elsewhere(self, lab):
        folder = lab.segmentations("peer")
        (folder / "semisup_validation.json").write_text('{"checkpoint": "checkpoint_best.pth"}')
        assert "selected by validation" in reason(lab, folder)

    def test_the_last_checkpoint_is_no_reason(self, lab):
        run = lab.run("EntropyMin", errors=0.2)
        (run / "validation" / "semisup_validation.json").write_text('{"checkpoint": "checkpoint_final.pth"}')
        assert compare([lab.run(errors=0.3), run], []).refused == []

    def test_a_validation_case_among_the_unlabelled(self, lab):
        run = lab.run("EntropyMin", seed=1, change=edited(unlabeled=[TRAIN[2], VAL[1]]))
        assert reason(lab, run) == f"its unlabelled cases include 1 of its validation cases, e.g. {VAL[1]}"

    def test_a_validation_case_among_the_labelled(self, lab):
        run = lab.run("EntropyMin", seed=1, change=edited(labeled=[TRAIN[0], VAL[1]]))
        assert "its labelled cases include 1 of its validation cases" in reason(lab, run)

    @pytest.mark.parametrize("known", ["manifest", "raw images"])
    def test_a_planted_leak_under_another_name(self, lab, known, monkeypatch):
        """The scan of a validation case stands in the dataset a second time, as a training case without its label."""
        folder = lab.workspace.dataset_folder
        manifest = folder / "nnUNetPlans_3d_fullres_unlabeled.json"
        before = manifest.read_text()
        image = lab.workspace.root / "raw" / "Dataset901_Toy" / "imagesTr" / f"{TRAIN[3]}_0000.nii.gz"
        scan = image.read_bytes()
        content = json.loads(before)
        try:
            if known == "manifest":
                content["cases"][TRAIN[3]]["voxel_hash"] = content["cases"][VAL[2]]["voxel_hash"]
            else:
                content["cases"] = {}
                shutil.copyfile(image.with_name(f"{VAL[2]}_0000.nii.gz"), image)
            manifest.write_text(json.dumps(content))
            good = lab.run(errors=0.3)
            leaking = lab.run("EntropyMin", errors=0.1)
            with pytest.raises(SemiSupervisedError, match="nothing to compare it with") as caught:
                compare([good, leaking], [])
        finally:
            manifest.write_text(before)
            image.write_bytes(scan)
            (folder / "labeled_voxel_hashes.json").unlink(missing_ok=True)
        assert f"its unlabelled case {TRAIN[3]} has the voxels of the validation case {VAL[2]}" in str(caught.value)

    def test_a_labelled_case_with_the_voxels_of_a_validation_case(self, lab):
        manifest = lab.workspace.dataset_folder / "nnUNetPlans_3d_fullres_unlabeled.json"
        before = manifest.read_text()
        content = json.loads(before)
        content["cases"][TRAIN[0]]["voxel_hash"] = content["cases"][VAL[2]]["voxel_hash"]
        good = [lab.run(name, errors=0.2, change=edited(labeled=TRAIN[1:3])) for name in ("LabeledOnly", "EntropyMin")]
        leaking = lab.run("EntropyMin", seed=1, errors=0.1, change=edited(unlabeled=[]))
        try:
            manifest.write_text(json.dumps(content))
            (refused,) = compare([*good, leaking], []).refused
        finally:
            manifest.write_text(before)
        assert refused.reason == f"its labelled case {TRAIN[0]} has the voxels of the validation case {VAL[2]}"

    def test_what_cannot_be_looked_at_is_said(self, lab, monkeypatch):
        manifest = lab.workspace.dataset_folder / "nnUNetPlans_3d_fullres_unlabeled.json"
        before = manifest.read_text()
        monkeypatch.delenv("nnUNet_raw")
        try:
            manifest.unlink()
            comparison = compare([lab.run(errors=0.3), lab.run("EntropyMin", errors=0.1)], [])
        finally:
            manifest.write_text(before)
        (line,) = [line for line in comparison.warnings if "could not be compared voxel by voxel" in line]
        assert line.startswith("9 cases, e.g. labeled_000, could not")

    @pytest.mark.parametrize("key", ["patch_size", "network", "foreground_intensity_properties_per_channel",
                                     "training.initial_lr", "labels", "regions_class_order"])  # fmt: skip
    def test_unequal_plans_unless_they_are_allowed(self, lab, key):
        def change(checkpoint):
            plans = checkpoint["init_args"]["plans"]
            configuration = plans["configurations"]["3d_fullres"]
            if key == "patch_size":
                configuration["patch_size"] = [8, 16, 16]
            elif key == "network":
                configuration["architecture"]["arch_kwargs"]["features_per_stage"] = [5, 9, 13]
            elif key == "training.initial_lr":
                checkpoint["semisup"]["settings"]["training"]["initial_lr"] = 0.02
            elif key == "labels":
                checkpoint["init_args"]["dataset_json"]["labels"]["another"] = 5
            elif key == "regions_class_order":
                checkpoint["init_args"]["dataset_json"]["regions_class_order"] = [1, 2, 3, 4]
            else:
                plans[key]["0"]["mean"] += 1

        run = lab.run("EntropyMin", seed=0, errors=0.2, change=change)
        assert f"--allow-different {key}" in reason(lab, run)
        comparison = compare([lab.run(errors=0.3, name="other"), run], [key])
        assert comparison.refused == []
        assert comparison.results[1].row.different == (key,)

    def test_a_key_that_may_never_differ(self, lab):
        with pytest.raises(SemiSupervisedError, match=r"--allow-different cases: known are .*patch_size"):
            compare([lab.run(errors=0.3), lab.run("EntropyMin", errors=0.2)], ["cases"])

    @pytest.mark.parametrize("content", ['{"a": 1}', "[]", "{"])
    @pytest.mark.parametrize("file", ["semisup_cost.json", "validation/semisup_validation.json"])
    def test_a_damaged_small_file_of_one_run_in_a_folder(self, lab, file, content):
        for name in ("LabeledOnly", "EntropyMin"):
            lab.run(name, errors=0.2)
        damaged = lab.run("EntropyMin", seed=1)
        (damaged / file).write_text(content)
        comparison = compare([lab.copies], [])
        assert rows(comparison) == ["LabeledOnly, 2 labels", "EntropyMin, 2 labels"]
        (refused,) = comparison.refused
        assert refused.reason.startswith(f"{damaged / file} is ")
        assert "\n" not in refused.reason
        with pytest.raises(SemiSupervisedError, match=r"is damaged|is not valid JSON"):
            compare([damaged, lab.copies], [])

    def test_a_validation_that_misses_a_case(self, lab):
        run = lab.run("EntropyMin", seed=1)
        (run / "validation" / f"{VAL[3]}.nii.gz").unlink()
        assert "lacks 1 of the segmentations, e.g. labeled_007.nii.gz" in reason(lab, run)

    def test_another_geometry(self, lab):
        folder = lab.segmentations("peer")
        file = str(folder / f"{VAL[0]}.nii.gz")
        image = sitk.ReadImage(file)
        image.SetOrigin((5.0, 0.0, 0.0))
        sitk.WriteImage(image, file)
        assert "has another geometry than the truth: origin" in reason(lab, folder)

    def test_another_shape(self, lab):
        folder = lab.segmentations("peer")
        file = str(folder / f"{VAL[0]}.nii.gz")
        sitk.WriteImage(sitk.ReadImage(file)[1:], file)
        assert "voxels instead of 16 x 24 x 24" in reason(lab, folder)

    def test_another_label_set(self, lab):
        folder = lab.segmentations("peer")
        file = str(folder / f"{VAL[0]}.nii.gz")
        sitk.WriteImage(sitk.ReadImage(file) * 7, file)
        assert "holds the label 7, the dataset has 0, 1, 2, 3, 4" in reason(lab, folder)

    def test_a_file_that_cannot_be_read(self, lab):
        folder = lab.segmentations("peer")
        (folder / f"{VAL[0]}.nii.gz").write_bytes(b"no image")
        assert reason(lab, folder)

    def test_segmentations_beside_runs_with_two_label_counts(self, lab):
        def one(checkpoint):
            checkpoint["semisup"]["cases"]["labeled"] = TRAIN[:1]

        runs = [lab.run(errors=0.3), lab.run(errors=0.4, labels=1, change=one), lab.segmentations("peer")]
        (refused,) = compare(runs, []).refused
        assert "there are runs with 1 and 2 labelled cases, and nothing says which it belongs beside" in refused.reason


class TestBadInput:
    def test_no_baseline(self, lab):
        with pytest.raises(SemiSupervisedError, match="none of the runs is one of nnUNetTrainerLabeledOnly"):
            compare([lab.run("EntropyMin")], [])

    def test_why_the_baseline_is_missing(self, lab):
        lab.run("EntropyMin")
        (lab.run() / "checkpoint_final.pth").unlink()
        with pytest.raises(SemiSupervisedError, match=r"none of the runs .*; nnUNetTrainerLabeledOnly.*: is not fin"):
            compare([lab.copies], [])

    def test_nothing_beside_the_baseline(self, lab):
        with pytest.raises(SemiSupervisedError, match="there is only LabeledOnly, 2 labels, and nothing"):
            compare([lab.run()], [])

    def test_no_final_checkpoint(self, lab):
        run = lab.run("EntropyMin")
        (run / "checkpoint_final.pth").unlink()
        with pytest.raises(SemiSupervisedError, match=r"holds no checkpoint_final.pth; finish the training"):
            compare([lab.run(), run], [])

    def test_an_unfinished_run_in_a_folder_of_runs_is_refused_and_the_others_go_on(self, lab):
        lab.run(errors=0.3)
        lab.run("EntropyMin", errors=0.2)
        (lab.run("EntropyMin", seed=5) / "checkpoint_final.pth").unlink()
        comparison = compare([lab.copies], [])
        assert len(comparison.results) == 2
        (refused,) = comparison.refused
        assert refused.name.endswith("seed5__3d_fullres/fold_0")
        assert refused.reason == "is not finished"

    @pytest.mark.parametrize("what", ["nowhere", "empty"])
    def test_a_path_that_is_no_run(self, lab, what, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(SemiSupervisedError, match="a RUN is a fold's folder"):
            compare([lab.run(), tmp_path / what], [])

    def test_two_runs_of_the_same_name(self, lab):
        runs = [lab.run(), lab.run("EntropyMin"), lab.run("EntropyMin", name="again")]
        with pytest.raises(SemiSupervisedError, match=r"two runs have the same name: .*both EntropyMin with seed 0"):
            compare(runs, [])

    def test_the_same_run_twice_counts_once(self, lab):
        run = lab.run("EntropyMin", errors=0.2)
        comparison = compare([lab.run(errors=0.3), run, run.parent], [])
        assert [len(result.row.seeds) for result in comparison.results] == [1, 1]

    def test_a_stock_training(self, lab):
        run = lab.run("EntropyMin", change=lambda checkpoint: checkpoint.pop("semisup"))
        with pytest.raises(SemiSupervisedError, match="train nnUNetTrainerLabeledOnly instead, which equals stock"):
            compare([lab.run(), run], [])

    def test_a_dataset_that_is_elsewhere(self, lab, monkeypatch, tmp_path):
        monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
        with pytest.raises(SemiSupervisedError, match="its gt_segmentations/ are the truth of these runs"):
            compare([lab.run(), lab.run("EntropyMin")], [])

    def test_no_seed_in_common(self, lab):
        with pytest.raises(SemiSupervisedError, match="no run of LabeledOnly with 2 labels and seed 2 to compare it"):
            compare([lab.run(seed=1, errors=0.3), lab.run("EntropyMin", seed=2, errors=0.2)], [])

"""Which runs are taken together, and which are no pairs."""

import shutil
from html import unescape
from pathlib import Path

import pytest
import torch

from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.evaluation.comparison.compare import compare
from nnunetv2_semisup.evaluation.comparison.report import write_report
from nnunetv2_semisup.evaluation.comparison.tables import main_table
from nnunetv2_semisup.training.checkpoint_reading import read_checkpoint
from tests.evaluation.comparison.conftest import TRAIN, write_segmentations


def rows(comparison):
    return [result.row.title for result in comparison.results]


def edited(**cases):
    """A change of the checkpoint's cases, e.g. labeled=[...]."""
    return lambda checkpoint: checkpoint["semisup"]["cases"].update(cases)


def dice(lab, errors, seed):
    """Mean Dice of a run with these errors alone beside a baseline."""
    run = lab.run("EntropyMin", errors=errors, seed=seed, name="alone")
    comparison = compare([lab.run(seed=seed, errors=0.5, name="alone"), run], [])
    return comparison.results[1].mean[0, 0]


def from_another_machine(run: Path, folder: Path, seed: int) -> Path:
    """A copy of a fold below another nnUNet_results, whose plan has another seed under the same name."""
    copy = folder / run.parent.parent.name / run.parent.name / run.name
    shutil.copytree(run, copy)
    checkpoint = read_checkpoint(copy / "checkpoint_final.pth")
    checkpoint["semisup"]["settings"]["training"]["seed"] = seed
    torch.save(checkpoint, copy / "checkpoint_final.pth")
    return copy


def test_runs_of_one_name_below_two_results_folders_are_each_measured_by_their_own_files(lab, tmp_path):
    """A stock workflow: one plan, its seed changed, trained on two machines."""
    good = lab.run("EntropyMin", seed=0, errors=0.05)
    bad = from_another_machine(good, tmp_path / "elsewhere", seed=1)
    write_segmentations(bad / "validation", lab.truth, 0.8, 1)
    comparison = compare([lab.run(seed=0, errors=0.5), lab.run(seed=1, errors=0.5), good, bad], [])
    row = comparison.results[1]
    assert list(row.row.seeds) == ["0", "1"]
    means = row.values[:, :, 0, 0].mean(axis=1)
    assert means[0] == pytest.approx(dice(lab, 0.05, 0))
    assert means[1] == pytest.approx(dice(lab, 0.8, 1))
    assert [runs[0].name for runs in row.row.seeds.values()] == [str(run / "validation") for run in (good, bad)]


def test_a_damaged_file_refuses_its_own_run_and_not_one_of_the_same_name(lab, tmp_path):
    good = lab.run("EntropyMin", seed=0, errors=0.05)
    bad = from_another_machine(good, tmp_path / "elsewhere", seed=1)
    (bad / "validation" / "labeled_004.nii.gz").write_bytes(b"no image")
    comparison = compare([lab.run(seed=0, errors=0.5), lab.run(seed=1, errors=0.5), good, bad], [])
    assert list(comparison.results[1].row.seeds) == ["0"]
    (refused,) = comparison.refused
    assert refused.name == str(bad / "validation")


def benchmark(lab, weight):
    """A folder that holds LabeledOnly and EntropyMin with a weight, as a benchmark leaves them."""
    folder = lab.copies / f"weight{weight}"

    def change(checkpoint):
        checkpoint["semisup"]["settings"]["entropy"]["weight"] = weight

    for run in (
        lab.run(errors=0.4, name=f"w{weight}"),
        lab.run("EntropyMin", errors=0.2, change=change, name=f"w{weight}"),
    ):
        shutil.move(run.parent, folder / run.parent.name)
    return folder


def test_two_benchmarks_that_both_trained_the_baseline(lab):
    comparison = compare([benchmark(lab, 0.25), benchmark(lab, 0.5)], [])
    assert [title.split(" (")[0] for title in rows(comparison)] == ["LabeledOnly, 2 labels", "EntropyMin", "EntropyMin"]
    (refused,) = comparison.refused
    assert "w0.5_LabeledOnly" in refused.name
    assert refused.reason.startswith("it has the settings, seed and cases of nnUNetTrainerLabeledOnly__w0.25")


def test_two_benchmarks_on_other_unlabelled_cases_are_not_the_same_training(lab):
    """The method's two trainings have one name; which is meant must be said."""
    folders = [benchmark(lab, 0.25), lab.copies / "again"]
    run = lab.run(
        "EntropyMin",
        errors=0.2,
        name="again",
        change=lambda checkpoint: (
            checkpoint["semisup"]["settings"]["entropy"].update(weight=0.25),
            checkpoint["semisup"]["cases"].update(unlabeled=[TRAIN[2]]),
        ),
    )
    shutil.move(run.parent, folders[1] / run.parent.name)
    with pytest.raises(SemiSupervisedError, match="two runs have the same name"):
        compare(folders, [])


def test_a_seed_that_the_baseline_lacks_is_left_out(lab):
    """It would enter the method's mean, here on other labelled cases, and not the difference."""
    runs = [lab.run(seed=0, errors=0.4), lab.run("EntropyMin", seed=0, errors=0.4)]
    runs.append(lab.run("EntropyMin", seed=5, errors=0.05, change=edited(labeled=TRAIN[2:])))
    comparison = compare(runs, [])
    baseline, method = comparison.results
    assert list(method.row.seeds) == ["0"]
    assert method.mean[0, 0] == baseline.mean[0, 0]
    (refused,) = comparison.refused
    assert "seed5" in refused.name
    assert refused.reason == "there is no run of LabeledOnly with 2 labels and seed 5 to compare it with; train one"


def test_a_seed_whose_baseline_is_damaged_is_left_out(lab):
    runs = [lab.run(name, seed=seed, errors=0.3) for name in ("LabeledOnly", "EntropyMin") for seed in (0, 1)]
    (runs[1] / "validation" / "labeled_004.nii.gz").write_bytes(b"no image")
    comparison = compare(runs, [])
    assert [list(result.row.seeds) for result in comparison.results] == [["0"], ["0"]]
    assert ["LabeledOnly" in refused.name for refused in comparison.refused] == [True, False]
    assert "no run of LabeledOnly with 2 labels and seed 1" in comparison.refused[1].reason


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_trainings_without_a_seed_are_paired_by_their_labelled_cases(lab, order):
    """Whatever the order of the baselines, and the second method of one split has no partner left."""
    splits = [edited(labeled=TRAIN[:2]), edited(labeled=TRAIN[2:])]
    bases = [lab.run(seed=None, errors=0.2 + 0.4 * i, name=f"b{i}", change=split) for i, split in enumerate(splits)]
    method = lab.run("EntropyMin", seed=None, errors=0.1, name="m", change=splits[1])
    more = lab.run("EntropyMin", seed=None, errors=0.1, name="n", change=splits[1])
    comparison = compare([bases[order[0]], bases[order[1]], method, more], [])
    baseline, ours = comparison.results
    (seed,) = ours.row.seeds
    assert baseline.row.seeds[seed][0].training.labeled == tuple(TRAIN[2:])
    theirs = baseline.values[list(baseline.row.seeds).index(seed), :, 0, 0]
    assert ours.difference.intervals[0][0].mean == pytest.approx((ours.values[0, :, 0, 0] - theirs).mean())
    (refused,) = comparison.refused
    assert "__n_" in refused.name
    assert "LabeledOnly with 2 labels, without a seed and on its labelled cases, to compare" in refused.reason


def test_few_pairs_are_warned_of_however_many_seeds_the_rows_have(lab):
    runs = [lab.run(seed=seed, errors=0.4) for seed in (0, 1, 2)]
    runs += [lab.run("EntropyMin", seed=seed, errors=0.2) for seed in (2, 3, 4)]
    comparison = compare([*runs, lab.segmentations("peer")], [])
    assert [result.difference and result.difference.pairs for result in comparison.results] == [None, 1, 1]
    assert [result["pairs"] for result in main_table(comparison)] == ["", "1", "1"]
    (line,) = [line for line in comparison.warnings if "Fewer than 3 seeds" in line]
    assert "LabeledOnly: EntropyMin, 2 labels (1); peer (1). With one" in line


def test_unlabelled_cases_are_counted_and_other_ones_are_warned_of(lab, tmp_path):
    more = [*TRAIN[2:], "unlabeled_000"]
    runs = [lab.run(seed=seed, errors=0.4) for seed in (0, 1)]
    runs += [lab.run("EntropyMin", seed=0, errors=0.2, change=edited(unlabeled=TRAIN[2:3]))]
    runs += [lab.run("EntropyMin", seed=1, errors=0.2, change=edited(unlabeled=more))]
    comparison = compare([*runs, lab.segmentations("peer")], [])
    assert [line["unlabelled"] for line in main_table(comparison)] == ["0", "1-3", ""]
    (line,) = [line for line in comparison.warnings if "Not the same images" in line]
    assert (
        "EntropyMin, 2 labels, seed 1 has learned from labeled_003 (2 such cases), EntropyMin, 2 labels, seed 0" in line
    )
    assert line in unescape(write_report(comparison, tmp_path / "out").read_text())


def test_a_seed_that_draws_other_labelled_cases_has_seen_the_same_images(lab):
    runs = []
    for seed, (few, others) in enumerate([(TRAIN[:2], TRAIN[2:]), (TRAIN[2:], TRAIN[:2])]):
        runs.append(lab.run(seed=seed, errors=0.3, change=edited(labeled=few)))
        runs.append(lab.run("EntropyMin", seed=seed, errors=0.3, change=edited(labeled=few, unlabeled=others)))
    comparison = compare(runs, [])
    assert [line["unlabelled"] for line in main_table(comparison)] == ["0", "2"]
    assert not [line for line in comparison.warnings if "images" in line]

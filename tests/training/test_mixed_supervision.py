"""Trainings on dense, sparse and missing labels, with real nnU-Net, from the cases to the exported model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_semisup import extension
from nnunetv2_semisup.configuration.sources import merged
from nnunetv2_semisup.errors import SemiSupervisedError
from nnunetv2_semisup.methods import trainer_class
from nnunetv2_semisup.networks.second_decoder import own_parameters
from nnunetv2_semisup.regularizers.cps import CPS
from nnunetv2_semisup.regularizers.mixedkd import MixedKD
from nnunetv2_semisup.training.model_export import export_model
from nnunetv2_semisup.training.run_log import read_log
from tests.data.copies import DATA_IDENTIFIER, copy_of
from tests.training.test_equals_stock import Recorded, assert_equal, stock
from tests.training.test_resume import Killed, assert_same
from tests.workspace import TINY, Workspace, make_workspace

NAME = "nnUNetTrainerMixedKD"
DENSE, SPARSE = ("labeled_000", "labeled_001"), ("labeled_002", "labeled_003")
IGNORE = 5
SPLITS = {
    "mixed": {"labeled": [DENSE[0], *SPARSE], "unlabeled": ["labeled_004"], "val": [DENSE[1]]},
    "named": {"labeled": [*DENSE, *SPARSE], "unlabeled": [], "val": ["labeled_004"], "dense": [SPARSE[0]]},
    "no_dense": {"labeled": [*SPARSE], "unlabeled": [], "val": [DENSE[1]]},
    "wrong": {"labeled": [*DENSE, *SPARSE], "unlabeled": [], "val": ["labeled_004"], "sparse": [DENSE[1]]},
    "foreign": {"labeled": [*DENSE], "unlabeled": [], "val": ["labeled_004"], "sparse": [SPARSE[0]]},
    "both": {"labeled": [*DENSE], "unlabeled": [], "val": ["labeled_004"], "sparse": [DENSE[0]], "dense": [DENSE[0]]},
}
EVERYWHERE = {"kd": {"domain": "all"}, "entropy": {"form": "shannon"}}
"""All terms of the paper, on all patches."""
ZERO = {"teacher": {"weight": 0.0}, "kd": {"weight": 0.0}, "entropy": {"weight": 0.0}}


def with_split(name: str, **changes: Any) -> dict[str, Any]:
    return merged(TINY | {"data": {"split": name}}, changes)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two dense and three sparse cases (two thirds of the voxels), two unlabelled ones."""
    workspace = make_workspace(tmp_path_factory.mktemp("mixed"), ignore=True, n_unlabeled=2)
    for name, split in SPLITS.items():
        (workspace.dataset_folder / f"splits_{name}.json").write_text(json.dumps({"0": split}))
    return workspace


@pytest.fixture
def in_mixed(mixed: Workspace):
    with mixed.active():
        yield mixed


@pytest.fixture
def changed(mixed: Workspace, tmp_path: Path):
    """A copy in which a test may change labels."""
    workspace = copy_of(mixed, tmp_path)
    for file in mixed.dataset_folder.glob("splits_*.json"):
        shutil.copyfile(file, workspace.dataset_folder / file.name)
    with workspace.active():
        yield workspace


def change_labels(workspace: Workspace, case: str, change: Any) -> None:
    file = workspace.dataset_folder / DATA_IDENTIFIER / f"{case}_seg.b2nd"
    seg = np.array(blosc2.open(str(file), mode="r")[:])
    file.unlink()
    blosc2.asarray(change(seg), urlpath=str(file))


def foreground_only(seg: np.ndarray) -> np.ndarray:
    return np.where(seg == 0, IGNORE, seg)


def log_of(trainer: Any) -> str:
    return Path(trainer.log_file).read_text()


# ------------------------------------------------------------------ trainings


@pytest.fixture(scope="module")
def trained(mixed: Workspace) -> Any:
    """A training on all three kinds of labels."""
    with mixed.active():
        trainer = mixed.trainer(NAME, with_split("mixed", **EVERYWHERE), plans_name="trained")
        trainer.run_training()
    return trainer


def test_all_three_kinds_train_and_every_term_is_logged(trained):
    rows = read_log(trained.run_log.file)
    assert not any(value for key, value in rows[0].items() if key.startswith("weighted/"))
    for row in rows[1:]:
        for name in ("kd", "entropy", "kd_dense", "kd_sparse", "entropy_sparse"):
            assert float(row[f"weighted/{name}"]) > 0
            assert float(row[f"grad/{name}"]) > 0
        signs = {key.removeprefix("sign/") for key, value in row.items() if key.startswith("sign/") and value}
        assert signs == {"foreground", "confidence", "agreement", "divergence", "foreground_dense"}


def test_the_kinds_are_found_printed_and_stored(trained):
    log = log_of(trained)
    assert "1 dense cases (annotated voxels): labeled_000 (100.0%)" in log
    assert "2 sparse cases (annotated voxels): labeled_002 (6" in log
    section = torch.load(f"{trained.output_folder}/checkpoint_final.pth", weights_only=False)["semisup"]
    assert section["cases"]["sparse"] == list(SPARSE)
    assert section["annotated"].keys() == {DENSE[0], *SPARSE}
    assert section["annotated"][DENSE[0]] == 1
    assert section["annotated"][SPARSE[0]] == pytest.approx(2 / 3, abs=0.05)


def test_dense_and_sparse_labels_need_no_unlabelled_case(changed):
    for path in (*changed.dataset_folder.glob("*_unlabeled"), *changed.dataset_folder.glob("*_unlabeled.json")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    split = SPLITS["mixed"] | {"unlabeled": []}
    (changed.dataset_folder / "splits_two.json").write_text(json.dumps({"0": split}))
    trainer = changed.trainer(NAME, with_split("two", **EVERYWHERE), plans_name="two")
    trainer.run_training()
    row = read_log(trainer.run_log.file)[-1]
    assert trainer.dataloader_unlabeled is None
    assert not row["weighted/kd"]
    assert not row["weighted/entropy"]
    for name in ("kd_dense", "kd_sparse", "entropy_sparse"):
        assert float(row[f"weighted/{name}"]) > 0
    assert float(row["sign/foreground"]) >= 0
    (changed.dataset_folder / "splits_dense.json").write_text(json.dumps({"0": split | {"labeled": [*DENSE[:1]]}}))
    with pytest.raises(SemiSupervisedError, match="there is no unlabelled case"):
        changed.trainer(NAME, with_split("dense"), plans_name="dense")


@pytest.mark.parametrize("workers", [0, 2])
def test_dense_batches_are_nnunets_and_sparse_ones_come_beside_them(mixed, workers):
    with mixed.active(workers=workers):
        trainer = mixed.trainer(NAME, with_split("mixed"), plans_name=f"rows_{workers}")
        trainer.on_train_start()
        for loader, cases in ((trainer.dataloader_train, {DENSE[0]}), (trainer.dataloader_sparse, {*SPARSE})):
            batches = [next(loader) for _ in range(8)]
            assert {len(batch["data"]) for batch in batches} == {trainer.batch_size}
            assert {str(key) for batch in batches for key in batch["keys"]} == cases
        sparse = batches[0]["target"][0]
        assert 0 < float((sparse == IGNORE).float().mean()) < 1
        trainer.on_train_end()


def test_a_peer_beside_it_learns_from_the_dense_labels(in_mixed):
    class nnUNetTrainerMixedCPS(trainer_class(NAME)):  # type: ignore[misc]
        regularizers = (MixedKD, CPS)

    settings = with_split("mixed", cross={"weight": 1.5}, schedule={"warmup": 1.0})
    trainer = in_mixed.trainer(nnUNetTrainerMixedCPS, settings, plans_name="peer")
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    trainer.train_step(next(trainer.dataloader_train))
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in trainer.peer.parameters())
    trainer.on_train_end()


def test_the_share_of_dense_patches_sets_the_number_of_sparse_ones(in_mixed):
    trainer = in_mixed.trainer(NAME, with_split("mixed", data={"dense_share": 0.67}), plans_name="share")
    trainer.on_train_start()
    assert (len(next(trainer.dataloader_train)["keys"]), len(next(trainer.dataloader_sparse)["keys"])) == (2, 1)
    trainer.on_train_end()


def test_the_split_may_name_a_case_that_the_share_would_call_sparse(in_mixed):
    trainer = in_mixed.trainer(NAME, with_split("named"), plans_name="named")
    assert trainer.annotation.sparse == (SPARSE[1],)


def test_without_a_split_the_cases_of_nnunets_fold_are_sorted(in_mixed):
    trainer = in_mixed.trainer(NAME, TINY, plans_name="stock_fold")
    trainer.initialize()
    labeled, _ = trainer.do_split()
    assert set(trainer.annotation.shares) == set(labeled)
    assert set(trainer.annotation.sparse) == set(labeled) - set(DENSE)
    everything = in_mixed.trainer(NAME, TINY, plans_name="stock_all", fold="all")
    assert everything.annotation.sparse == (*SPARSE, "labeled_004")


def test_property_1_zero_weights_and_no_sparse_case_equal_stock(in_toy):
    ours = Recorded(in_toy.trainer(NAME, ZERO, plans_name="zero_mixed"))
    assert ours.trainer.second_decoder is None
    assert_equal(ours, stock(in_toy))


def test_without_a_sparse_case_the_labelled_batches_are_stocks_and_so_is_the_first_loss(in_toy):
    """The teacher's decoder trains the encoder too, so the later losses differ."""
    ours = Recorded(in_toy.trainer(NAME, {}, plans_name="batches_mixed"))
    theirs = stock(in_toy)
    assert all(torch.equal(a, b) for a, b in zip(ours.batches, theirs.batches, strict=True))
    assert ours.losses[0] == theirs.losses[0]
    assert ours.losses != theirs.losses


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (
            "released_script",
            {"kd": {"form": "legacy", "domain": "dense"}, "entropy": {"domain": "all", "form": "shannon"}},
        ),
        ("other_view", EVERYWHERE | {"kd": {"domain": "all", "view": "other", "direction": "student_to_teacher"}}),
        ("strong", {"kd": {"domain": "all"}}),
        ("entropy_alone", {"kd": {"weight": 0.0}}),
        ("two_decoders_alone", {"kd": {"weight": 0.0}, "entropy": {"weight": 0.0}}),
        ("one_decoder", ZERO),
    ],
)
def test_forms_and_ablations_train(in_mixed, name, changes):
    settings = with_split("mixed", **changes) | {"schedule": {"warmup": 0.0, "ramp": 0.0}}
    settings["training"] = settings["training"] | {"num_epochs": 1}
    trainer = in_mixed.trainer(NAME, settings, plans_name=name)
    trainer.run_training()
    assert (trainer.second_decoder is None) == (changes is ZERO)
    assert all(torch.isfinite(parameter).all() for parameter in trainer.network.parameters())


def test_sparse_regions_in_2d_train_with_the_dice_of_the_whole_batch(tmp_path):
    workspace = make_workspace(tmp_path, ignore=True, regions=True, configurations=("2d",), n_unlabeled=1)
    (workspace.dataset_folder / "splits_mixed.json").write_text(json.dumps({"0": SPLITS["mixed"]}))
    settings = with_split("mixed", **EVERYWHERE) | {"schedule": {"warmup": 0.0, "ramp": 0.0}}
    with workspace.active():
        trainer = workspace.trainer(NAME, settings, configuration="2d")
        trainer.run_training()
    assert trainer.label_manager.has_regions
    assert trainer.configuration_manager.batch_dice
    for row in read_log(trainer.run_log.file):
        for name in ("kd", "entropy", "kd_dense", "kd_sparse", "entropy_sparse"):
            assert float(row[f"weighted/{name}"]) > 0


# ------------------------------------------------------------------ checkpoints


def predictor_of(folder: Path) -> nnUNetPredictor:
    predictor = nnUNetPredictor(use_gaussian=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=(0,), checkpoint_name="checkpoint_final.pth")
    return predictor


def test_property_2_the_stock_predictor_loads_the_student_strictly_and_predicts_what_it_says(trained, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", extension.__path__[0])
    predictor = predictor_of(Path(trained.output_folder_base))
    image = torch.randn(1, *trained.configuration_manager.patch_size, generator=torch.Generator().manual_seed(0))
    trained.network.decoder.deep_supervision = False
    trained.network.eval()
    student = predictor.network
    student.load_state_dict(predictor.list_of_parameters[0], strict=True)
    student.eval()
    with torch.no_grad():
        torch.testing.assert_close(student(image[None]), trained.network(image[None]))
    found = predictor.predict_sliding_window_return_logits(image)
    with torch.no_grad():
        mirrored = [
            trained.network(image[None].flip(axes)).flip(axes) if axes else trained.network(image[None])
            for axes in ((), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4))
        ]
    torch.testing.assert_close(found.float().cpu(), torch.stack(mirrored).mean(dim=0)[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("weights", ["student", "teacher"])
def test_either_decoder_is_exported_as_a_stock_model(trained, tmp_path, weights):
    export_model(Path(trained.output_folder_base), tmp_path / "model", None, weights, as_zip=False)
    predictor = predictor_of(tmp_path / "model")
    predictor.network.load_state_dict(predictor.list_of_parameters[0], strict=True)
    source = trained.network if weights == "student" else trained.second_decoder
    for key, value in predictor.network.state_dict().items():
        assert torch.equal(value, source.state_dict()[key]), key
    other = trained.second_decoder if weights == "student" else trained.network
    assert not torch.equal(
        predictor.network.decoder.seg_layers[-1].weight.detach(), other.decoder.seg_layers[-1].weight.detach()
    )


def test_property_3_the_optimiser_holds_every_parameter_once(trained):
    held = [id(p) for group in trained.optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in (*trained.network.parameters(), *own_parameters(trained.second_decoder))}
    assert trained.second_decoder.encoder is trained.network.encoder


def test_a_checkpoint_without_the_teacher_is_refused_and_the_export_says_so(trained, mixed, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(trained.output_folder_base, folder)
    file = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    del content["semisup"]["modules"]["second_decoder"]
    torch.save(content, file)
    with pytest.raises(SemiSupervisedError, match="holds no teacher"):
        export_model(folder, tmp_path / "out", None, "teacher", as_zip=False)
    with mixed.active():
        trainer = mixed.trainer(NAME, with_split("mixed", **EVERYWHERE), plans_name="trained", resume=True)
        with pytest.raises(SemiSupervisedError, match="no weights of the teacher's decoder") as error:
            trainer.load_checkpoint(str(file))
    assert "\n" not in str(error.value)


def test_a_killed_run_with_sparse_cases_goes_on_exactly(in_mixed, monkeypatch):
    settings = with_split("mixed", training={"num_epochs": 4, "save_every": 1})
    whole = in_mixed.trainer(NAME, settings, plans_name="whole")
    whole.run_training()
    trainer = in_mixed.trainer(NAME, settings, plans_name="killed")
    epoch_start = trainer.on_train_epoch_start

    def die_in_epoch_2() -> None:
        epoch_start()
        if trainer.current_epoch == 2:
            trainer.train_step(next(trainer.dataloader_train))
            raise Killed

    monkeypatch.setattr(trainer, "on_train_epoch_start", die_in_epoch_2)
    with pytest.raises(Killed):
        trainer.run_training()
    resumed = in_mixed.trainer(NAME, settings, plans_name="killed", resume=True)
    resumed.load_checkpoint(f"{resumed.output_folder}/checkpoint_latest.pth")
    assert resumed.current_epoch == 2
    resumed.run_training()
    assert_same(resumed, whole)


def test_continuing_is_refused_when_a_case_is_not_sparse_any_more(changed, trained):
    change_labels(changed, SPARSE[1], lambda seg: np.where(seg == IGNORE, 0, seg))
    longer = merged(with_split("mixed", **EVERYWHERE), {"training": {"num_epochs": 4}})
    trainer = changed.trainer(NAME, longer, plans_name="trained", resume=True)
    with pytest.raises(SemiSupervisedError, match=r"other sparse cases \(2, now 1; first difference: labeled_003"):
        trainer.load_checkpoint(f"{trained.output_folder}/checkpoint_final.pth")


def test_val_needs_neither_unlabelled_cases_nor_annotations(trained, mixed):
    with mixed.active():
        again = mixed.trainer(NAME, with_split("mixed", **EVERYWHERE), plans_name="trained")
        assert again.annotation.shares == {}
        again.load_checkpoint(f"{trained.output_folder}/checkpoint_final.pth")
        again.perform_actual_validation()
        assert (Path(again.output_folder) / "validation" / "summary.json").exists()
        # Trained for longer, it looks again.
        longer = merged(with_split("mixed", **EVERYWHERE), {"training": {"num_epochs": 4}})
        again = mixed.trainer(NAME, longer, plans_name="trained", resume=True)
        again.load_checkpoint(f"{trained.output_folder}/checkpoint_final.pth")
        assert again.annotation.sparse == SPARSE


# ------------------------------------------------------------------ foreground-only labels, and bad input


def test_foreground_only_scribbles_train_without_dice_and_say_so(changed):
    for case in SPARSE:
        change_labels(changed, case, foreground_only)
    trainer = changed.trainer(NAME, with_split("mixed"), plans_name="foreground_only")
    trainer.run_training()
    assert "2 sparse cases have no annotated background, so the Dice is left out of the loss" in log_of(trainer)
    assert trainer._labeled_pass.sparse_loss._loss.weight_dice == 0
    assert trainer.loss.loss.weight_dice == 1


def test_background_in_some_of_the_sparse_cases_keeps_the_dice(changed):
    change_labels(changed, SPARSE[0], foreground_only)
    trainer = changed.trainer(NAME, with_split("mixed"), plans_name="some_background")
    trainer.initialize()
    trainer._print_run()
    assert "1 sparse cases have no annotated background: labeled_002" in log_of(trainer)
    assert trainer._labeled_pass.sparse_loss._loss.weight_dice == 1


def refused(workspace: Workspace, settings: dict[str, Any], **options: Any) -> str:
    """The message, after checking that it is one line and that nothing was written."""
    before = sorted((workspace.root / "results").rglob("*"))
    with pytest.raises(SemiSupervisedError) as error:
        workspace.trainer(NAME, settings, plans_name="bad", **options)
    assert sorted((workspace.root / "results").rglob("*")) == before
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("no_dense", "no labelled case is annotated densely"),
        ("wrong", "the split names labeled_001 sparse, but every voxel of it is annotated"),
        ("foreign", "labeled_002 is in dense or sparse and not in labeled"),
        ("both", "labeled_000 is in dense and in sparse"),
    ],
)
def test_splits_that_cannot_be(in_mixed, split, words):
    assert words in refused(in_mixed, with_split(split))


def test_a_labelled_case_without_an_annotated_voxel(changed):
    change_labels(changed, SPARSE[0], lambda seg: np.full_like(seg, IGNORE))
    assert "the labelled case labeled_002 has no annotated voxel" in refused(changed, with_split("mixed"))


def test_a_class_that_no_dense_case_shows(changed):
    change_labels(changed, DENSE[0], lambda seg: np.where(seg == 2, 0, seg))
    assert "the label 2 occurs in sparse cases (labeled_002)" in refused(changed, with_split("mixed"))
    changed.trainer(NAME, with_split("mixed", kd={"weight": 0.0}), plans_name="no_kd")


def test_an_ignore_label_that_is_not_the_highest(changed):
    file = changed.dataset_folder / "dataset.json"
    content = json.loads(file.read_text())
    content["labels"] |= {"ignore": 4, "lesion": 5}
    file.write_text(json.dumps(content))
    assert "dataset.json says ignore: 4" in refused(changed, with_split("mixed"))


def test_a_batch_of_one_patch(in_mixed):
    plans = in_mixed.plans()
    plans["configurations"]["3d_fullres"]["batch_size"] = 1
    trainer = in_mixed.trainer(NAME, with_split("mixed"), plans=plans, plans_name="one_patch")
    trainer.run_training()
    assert read_log(trainer.run_log.file)[-1]["weighted/entropy_sparse"]


def test_a_sparse_case_in_a_dataset_without_an_ignore_label(in_toy):
    split = {"labeled": [*DENSE], "unlabeled": [], "val": ["labeled_004"], "sparse": [DENSE[0]]}
    (in_toy.dataset_folder / "splits_unignored.json").write_text(json.dumps({"0": split}))
    assert "every voxel of it is annotated" in refused(in_toy, with_split("unignored"))

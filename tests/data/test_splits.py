import itertools
import json

import numpy as np
import pytest
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunetv2_semisup.data.splits import Split, labeled_identifiers, make_split, read_split, split_file, write_split
from nnunetv2_semisup.errors import SemiSupervisedError

pytestmark = pytest.mark.fast
PATIENTS = [f"p{index // 2}_{'ab'[index % 2]}" for index in range(20)]
DESCRIPTION = {"file_ending": ".nii.gz"}


def dataset(folder, cases):
    """A dataset of nnUNet_preprocessed with empty files: only their names matter here."""
    stock = folder / "nnUNetPlans_3d_fullres"
    stock.mkdir(parents=True)
    for case in cases:
        for suffix in (".b2nd", "_seg.b2nd", ".pkl"):
            (stock / f"{case}{suffix}").touch()
    return folder


@pytest.fixture
def folder(tmp_path):
    return dataset(tmp_path / "Dataset007_Toy", PATIENTS)


def make(folder, fold=0, labeled=4, **options):
    return make_split(folder, folder / "raw", DESCRIPTION, fold, labeled, **options)


def test_folds_are_nnunets_and_are_saved_as_it_saves_them(folder):
    split = make(folder, fold=2)
    expected = generate_crossval_split(sorted(PATIENTS), seed=12345, n_splits=5)
    assert json.loads((folder / "splits_final.json").read_text()) == expected
    assert split.val == tuple(sorted(expected[2]["val"]))
    assert sorted(split.labeled + split.unlabeled) == sorted(expected[2]["train"])
    assert len(split.labeled) == 4


def test_existing_folds_are_used_and_left_alone(folder):
    text = json.dumps([{"train": PATIENTS[:6], "val": PATIENTS[6:8]}])
    (folder / "splits_final.json").write_text(text)
    split = make(folder, seed=None)
    assert split == Split(tuple(PATIENTS[:4]), tuple(PATIENTS[4:6]), tuple(PATIENTS[6:8]))
    assert (folder / "splits_final.json").read_text() == text
    with pytest.raises(SemiSupervisedError, match=r"-f 1: .* folds 0 to 0"):
        make(folder, fold=1)


def test_first_takes_the_first_by_name_and_seeds_draw(folder):
    first = make(folder, seed=None)
    assert first.labeled == tuple(sorted(first.labeled + first.unlabeled))[:4]
    draws = [make(folder, seed=seed) for seed in range(20)]
    assert draws == [make(folder, seed=seed) for seed in range(20)]
    assert len({draw.labeled for draw in draws}) > 15
    assert {case for draw in draws for case in draw.labeled} == set(first.labeled + first.unlabeled)


def test_fold_all_validates_on_the_labelled_cases(folder):
    split = make(folder, fold="all", labeled=3)
    assert sorted(split.labeled + split.unlabeled) == sorted(PATIENTS)
    assert split.val == split.labeled
    assert not (folder / "splits_final.json").exists()
    write_split(folder, "all", "all", split)
    assert read_split(folder, "all", "all") == split


def test_more_labelled_cases_than_exist_are_refused(folder):
    assert make(folder, labeled=16).unlabeled == ()
    with pytest.raises(SemiSupervisedError, match=r"--labeled 17: fold 0 has 16 training cases"):
        make(folder, labeled=17)


def test_dense_cases_come_first_in_the_draw_and_sparse_ones_next(folder):
    split = make(folder, seed=None, labeled=3, num_sparse=4)
    train = sorted(split.labeled + split.unlabeled)
    assert (split.dense, split.sparse) == (tuple(train[:3]), tuple(train[3:7]))
    assert split.labeled == tuple(sorted(split.dense + split.sparse))
    assert make(folder, seed=5, labeled=3).labeled == make(folder, seed=5, labeled=3, num_sparse=4).dense
    draws = {make(folder, seed=seed, labeled=3, num_sparse=4).sparse for seed in range(10)}
    assert len(draws) > 5


def test_dense_and_sparse_cases_of_a_patient_stay_together(folder):
    for seed in range(10):
        split = make(folder, labeled=4, num_sparse=6, group="^[^_]+", seed=seed)
        patients = [{case.split("_")[0] for case in cases} for cases in (split.dense, split.sparse, split.unlabeled)]
        assert sum(map(len, patients)) == len(set().union(*patients))
    with pytest.raises(SemiSupervisedError, match="--sparse 3: whole patients do not add up to it; ask for 2 or 4"):
        make(folder, labeled=4, num_sparse=3, group="^[^_]+", fold="all")


def test_more_dense_and_sparse_cases_than_exist_are_refused(folder):
    assert make(folder, labeled=4, num_sparse=12).unlabeled == ()
    with pytest.raises(SemiSupervisedError, match=r"--dense 4 --sparse 13: fold 0 has 16 training cases"):
        make(folder, labeled=4, num_sparse=13)


def test_dense_and_sparse_lists_are_written_where_there_are_any_and_read_again(folder):
    split = make(folder, labeled=2, num_sparse=3)
    write_split(folder, "mixed", 0, split)
    write_split(folder, "mixed", 1, make(folder, fold=1, labeled=2))
    content = json.loads(split_file(folder, "mixed").read_text())
    assert content["0"].keys() == {"labeled", "unlabeled", "val", "dense", "sparse"}
    assert content["1"].keys() == {"labeled", "unlabeled", "val"}
    assert read_split(folder, "mixed", 0) == split
    assert read_split(folder, "mixed", 1).sparse == ()


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"dense": [PATIENTS[0]], "sparse": [PATIENTS[0]]}, "is in dense and in sparse"),
        ({"dense": [PATIENTS[5]]}, "is in dense or sparse and not in labeled"),
        ({"sparse": "p0_a"}, "may hold two more: dense and sparse"),
    ],
)
def test_dense_and_sparse_lists_that_cannot_be(folder, lists, message):
    entry = {"labeled": PATIENTS[:2], "unlabeled": [], "val": PATIENTS[4:6]} | lists
    split_file(folder, "bad").write_text(json.dumps({"0": entry}))
    with pytest.raises(SemiSupervisedError, match=message):
        read_split(folder, "bad", 0)


@pytest.mark.parametrize("expression", ["^[^_]+", r"^(p\d+)_[ab]$"])
@pytest.mark.parametrize("fold", [0, 1, 2, 3, 4, "all"])
def test_patients_stay_together(folder, expression, fold):
    for seed in (None, 0, 1):
        split = make(folder, fold=fold, labeled=4, group=expression, seed=seed)
        sides = [set(case.split("_")[0] for case in side) for side in (split.labeled, split.unlabeled, split.val)]
        assert len(split.labeled) == 4
        assert not sides[0] & sides[1]
        assert not sides[1] & sides[2]
        assert fold == "all" or not sides[0] & sides[2]
        assert split.val == split.labeled if fold == "all" else len(split.val) == 4


def test_patients_that_do_not_add_up_are_refused_with_what_would(folder):
    with pytest.raises(SemiSupervisedError, match="ask for 2 or 4"):
        make(folder, fold="all", labeled=3, group="^[^_]+")
    with pytest.raises(SemiSupervisedError, match="ask for 2"):
        make(folder, fold="all", labeled=1, group="^[^_]+")
    with pytest.raises(SemiSupervisedError, match="does not match the case p0_a"):
        make(folder, fold="all", labeled=4, group="^q")
    with pytest.raises(SemiSupervisedError, match="is no regular expression"):
        make(folder, fold="all", labeled=4, group="(")


def test_patients_add_up_wherever_some_subset_does(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(40):
        sizes = rng.integers(1, 5, 5)
        cases = [f"p{patient}_{index}" for patient, size in enumerate(sizes) for index in range(size)]
        folder = dataset(tmp_path / f"Dataset{number:03d}_Toy", cases)
        sums = {sum(subset): subset for n in range(6) for subset in itertools.combinations(sizes, n)}
        for total in range(1, len(cases) + 1):
            if total in sums:
                split = make(folder, fold="all", labeled=total, group="^[^_]+", seed=number)
                assert len(split.labeled) == total
                assert not {case[:2] for case in split.labeled} & {case[:2] for case in split.unlabeled}
            else:
                with pytest.raises(SemiSupervisedError, match="do not add up"):
                    make(folder, fold="all", labeled=total, group="^[^_]+", seed=number)


def test_folds_keep_each_other_company_and_are_not_overwritten(folder):
    splits = {fold: make(folder, fold=fold) for fold in (0, 1, "all")}
    for fold, split in splits.items():
        file = write_split(folder, "mine", fold, split)
    text = file.read_text()
    write_split(folder, "mine", 0, splits[0])
    assert file.read_text() == text
    with pytest.raises(SemiSupervisedError, match="fold 0 with other cases already"):
        write_split(folder, "mine", 0, splits[1])
    assert {fold: read_split(folder, "mine", fold) for fold in splits} == splits


@pytest.mark.parametrize("name", ["final", "a/b", "../x", "", "a b"])
def test_names_that_are_nnunets_or_no_file_names_are_refused(folder, name):
    with pytest.raises(SemiSupervisedError, match="cannot name a split file"):
        split_file(folder, name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"1": {"labeled": ["a"], "unlabeled": ["b"], "val": ["c"]}}, "has no fold 0; type: nnUNetv2_semisup split"),
        ([{"train": ["a"], "val": ["b"]}], "has no fold 0"),
        ({"0": {"labeled": ["a"], "val": ["c"]}}, "three lists"),
        ({"0": {"labeled": "a", "unlabeled": ["b"], "val": ["c"]}}, "three lists"),
        ({"0": ["a"]}, "three lists"),
        ({"0": {"labeled": ["a"], "unlabeled": ["a"], "val": ["c"]}}, "a is in labeled and in unlabeled"),
        ({"0": {"labeled": ["a"], "unlabeled": ["c"], "val": ["c"]}}, "c is in unlabeled and in val"),
        ({"0": {"labeled": ["a"], "unlabeled": [], "val": ["a"]}}, "a is in labeled and in val"),
        ({"0": {"labeled": [], "unlabeled": ["a"], "val": ["c"]}}, "no labeled case"),
    ],
)
def test_split_files_that_cannot_be_used_say_why(folder, content, reason):
    split_file(folder, "bad").write_text(json.dumps(content))
    with pytest.raises(SemiSupervisedError, match=reason):
        read_split(folder, "bad", 0)


def test_a_missing_split_file_says_what_to_type(folder):
    with pytest.raises(SemiSupervisedError, match=r"type: nnUNetv2_semisup split -d 7 -f 3 --labeled N -o mine"):
        read_split(folder, "mine", 3)


def test_cases_come_from_the_raw_dataset_before_anything_is_preprocessed(tmp_path):
    raw = tmp_path / "raw"
    (raw / "imagesTr").mkdir(parents=True)
    folder = tmp_path / "Dataset007_Toy"
    folder.mkdir()
    with pytest.raises(SemiSupervisedError, match="no labelled case"):
        labeled_identifiers(folder, raw, DESCRIPTION)
    for case in "ba":
        (raw / "imagesTr" / f"{case}_0000.nii.gz").touch()
    assert labeled_identifiers(folder, raw, DESCRIPTION) == ["a", "b"]
    with pytest.raises(SemiSupervisedError, match="at least 5 cases, here are 2"):
        make_split(folder, raw, DESCRIPTION, 0, 1)


def test_configurations_with_different_cases_are_refused(folder):
    other = folder / "nnUNetPlans_2d"
    other.mkdir()
    for suffix in (".b2nd", "_seg.b2nd", ".pkl"):
        (other / f"p0_a{suffix}").touch()
    with pytest.raises(SemiSupervisedError, match="hold different cases"):
        labeled_identifiers(folder, folder / "raw", DESCRIPTION)


def test_folds_that_name_unknown_cases_are_refused(folder):
    (folder / "splits_final.json").write_text(json.dumps([{"train": [*PATIENTS[:6], "x"], "val": PATIENTS[6:8]}]))
    with pytest.raises(SemiSupervisedError, match="names x, which the dataset lacks"):
        make(folder)

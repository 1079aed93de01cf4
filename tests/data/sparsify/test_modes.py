import math

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_semisup.cli.sparsify import MODES as MODES_OF_THE_COMMAND
from nnunetv2_semisup.data.sparsify.modes import MODES, sparsify
from nnunetv2_semisup.data.synthetic import make_patient
from nnunetv2_semisup.errors import SemiSupervisedError

pytestmark = pytest.mark.fast

IGNORE = 5
GEOMETRIES = {
    "isotropic": ((20, 40, 40), (2.0, 2.0, 2.0)),
    "anisotropic": ((12, 48, 40), (6.0, 1.2, 1.6)),
    "coarse last": ((40, 36, 14), (1.5, 1.2, 5.0)),
    "2d": ((64, 80), (1.0, 0.8)),
    "microscopy": ((64, 80), (2.5e-4, 2.5e-4)),
}


def patient(geometry: str, index: int = 0) -> tuple[np.ndarray, tuple[float, ...]]:
    """Labels 0 to 4 as nnU-Net's readers return them: 2D images with one slice and a spacing of its own."""
    shape, spacing = GEOMETRIES[geometry]
    labels = make_patient(shape, seed=0, group="labeled", index=index)[1].astype(np.int32)
    return (labels, spacing) if len(shape) == 3 else (labels[None], (999.0, *spacing))


def made(labels, spacing, mode, budget, seed=0, **options):
    options = {"ignore": IGNORE} | options
    return sparsify(labels, spacing, mode=mode, budget=budget, rng=np.random.default_rng(seed), **options)


CELLS = [(mode, geometry) for mode in MODES for geometry in GEOMETRIES]
CELLS = [(mode, geometry) for mode, geometry in CELLS if mode != "slices" or len(GEOMETRIES[geometry][0]) == 3]


def test_the_command_offers_every_mode():
    assert MODES_OF_THE_COMMAND == tuple(MODES)


@pytest.mark.parametrize(("mode", "geometry"), CELLS)
@pytest.mark.parametrize("foreground_only", [False, True])
@pytest.mark.parametrize("budget", [0.004, 0.02, 0.15, 0.5])
def test_what_stays_is_true_and_within_the_budget(mode, geometry, foreground_only, budget):
    labels, spacing = patient(geometry)
    if mode == "slices" and budget * max(labels.shape[0], labels.shape[2] if geometry == "coarse last" else 0) < 1:
        with pytest.raises(SemiSupervisedError, match="less than one slice"):
            made(labels, spacing, mode, budget / 10, foreground_only=foreground_only)
        return
    sparse = made(labels, spacing, mode, budget, foreground_only=foreground_only)
    annotated = sparse != IGNORE
    assert sparse.dtype == np.int32
    assert (sparse[annotated] == labels[annotated]).all()
    assert 0 < annotated.sum() <= math.floor(budget * labels.size)
    assert (sparse == 0).any() != foreground_only


@pytest.mark.parametrize(("mode", "geometry"), CELLS)
def test_the_budget_is_met(mode, geometry):
    labels, spacing = patient(geometry)
    budget = 0.15 if mode in ("slices", "erosion") else 0.02
    left = np.count_nonzero(made(labels, spacing, mode, budget) != IGNORE)
    most = math.floor(budget * labels.size)
    slices = {"isotropic": 20, "anisotropic": 12, "coarse last": 14}
    tolerance = {"slices": labels.size / slices.get(geometry, 1), "erosion": 5}.get(mode, 0)
    assert most - tolerance <= left <= most


@pytest.mark.parametrize("mode", ["scribbles", "points", "erosion"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_class_keeps_a_voxel_even_a_class_of_one(mode, geometry):
    labels, spacing = patient(geometry)
    labels[0, 3, 3] = 6
    classes = set(np.unique(labels))
    for budget in (len(classes) / labels.size, 0.01):
        assert set(np.unique(made(labels, spacing, mode, budget, ignore=7))) == classes | {7}


def test_slices_hold_every_class_where_they_are_enough():
    labels, spacing = patient("isotropic")
    labels[0, 3, 3] = 6
    for seed in range(10):
        assert set(np.unique(made(labels, spacing, "slices", 6 / 20, seed, ignore=7))) == set(np.unique(labels)) | {7}


@pytest.mark.parametrize("mode", MODES)
def test_the_seed_decides(mode):
    labels, spacing = patient("anisotropic")
    state = np.random.get_state()[1].copy()
    first, again, other = (made(labels, spacing, mode, 0.1, seed) for seed in (0, 0, 3))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("mode", MODES)
def test_what_was_ignored_stays_so(mode):
    labels, spacing = patient("isotropic")
    labels[:, ::3] = IGNORE
    labels[4:9] = IGNORE
    sparse = made(labels, spacing, mode, 0.1)
    assert (sparse[labels == IGNORE] == IGNORE).all()
    assert (sparse != IGNORE).any()


@pytest.mark.parametrize("mode", MODES)
def test_labels_sparser_than_the_budget_stay_as_they_are(mode):
    labels, spacing = patient("isotropic")
    sparse = made(labels, spacing, "points", 0.01)
    assert np.array_equal(made(sparse, spacing, mode, 0.02), sparse)


def test_whole_slices_across_the_coarsest_axis_are_annotated():
    labels, spacing = patient("coarse last")
    annotated = made(labels, spacing, "slices", 0.3) != IGNORE
    assert np.array_equal(annotated.any((0, 1)), annotated.all((0, 1)))
    assert annotated.any((0, 1)).sum() == 4  # of 14
    sparse = made(labels, spacing, "slices", 0.1, foreground_only=True)
    chosen = (sparse != IGNORE).any((0, 1))
    assert np.array_equal(sparse[..., chosen] != IGNORE, labels[..., chosen] > 0)


def test_slices_of_foreground_only_are_more():
    labels, spacing = patient("anisotropic")
    both = [(made(labels, spacing, "slices", 0.2, foreground_only=only) != IGNORE).any((1, 2)).sum() for only in (0, 1)]
    assert both[0] == 2
    assert both[1] > 6


def test_strokes_lie_in_slices_across_the_coarsest_axis():
    labels, spacing = patient("coarse last")
    annotated = made(labels, spacing, "scribbles", 0.01) != IGNORE
    slices = annotated.any((0, 1))
    assert 5 <= slices.sum() < 14
    assert annotated[..., slices].mean((0, 1)).max() < 0.1


@pytest.mark.parametrize("mode", ["scribbles", "points", "erosion"])
def test_a_case_without_structures_keeps_background(mode):
    labels = np.zeros((6, 20, 20), np.int32)
    assert np.count_nonzero(made(labels, (1.0, 1.0, 1.0), mode, 0.01, ignore=2) == 0) == 24


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda labels: np.full_like(labels, IGNORE), {}, "nothing but the ignore label"),
        (np.zeros_like, {"foreground_only": True}, "no structure; leave --foreground-only out"),
        (
            lambda labels: labels,
            {"budget": 1e-4},
            r"5 classes, and --budget 0.0001 allows 3 .* type --budget 0.00016 or",
        ),
        (lambda labels: labels, {"budget": 0.04, "mode": "slices"}, "less than one slice; type --budget 0.050 or more"),
        (lambda labels: labels[:1], {"mode": "slices"}, "2D image"),
    ],
)
def test_what_cannot_be_says_why(change, options, message):
    labels, spacing = patient("isotropic")
    with pytest.raises(SemiSupervisedError, match=message):
        made(change(labels), spacing, options.pop("mode", "points"), options.pop("budget", 0.01), **options)


@pytest.mark.realdata
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", ["804_LAquarter/labelsTr/la_000", "805_Hippocampus/labelsTr/hip_003"])
def test_real_labels(mode, case, real_data):
    image = sitk.ReadImage(str(real_data / f"Dataset{case}.nii.gz"))
    labels, spacing = sitk.GetArrayFromImage(image).astype(np.int32), image.GetSpacing()[::-1]
    budget = 0.1 if mode in ("slices", "erosion") else 0.01
    sparse = made(labels, spacing, mode, budget)
    annotated = sparse != IGNORE
    assert (sparse[annotated] == labels[annotated]).all()
    assert set(np.unique(sparse)) == set(np.unique(labels)) | {IGNORE}
    tolerance = {"slices": labels[0].size, "erosion": 3}.get(mode, 0)
    most = math.floor(budget * labels.size)
    assert most - tolerance <= annotated.sum() <= most

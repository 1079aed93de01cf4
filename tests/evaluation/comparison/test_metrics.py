import warnings

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_semisup.evaluation.comparison.metrics import structure_scores
from nnunetv2_semisup.evaluation.comparison.structures import Structures

pytestmark = pytest.mark.fast


def box(start, stop, shape=(20, 24, 28)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def ball(radius, spacing, shape=(40, 60, 60)):
    """A ball of `radius` mm in the middle of a volume."""
    axes = [(np.arange(n) - n // 2) * s for n, s in zip(shape, spacing, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 <= radius**2


def test_equal_masks():
    mask = box((3, 4, 5), (9, 12, 15))
    assert structure_scores(mask, mask, (2, 1, 1)) == (1, 1, 0, 0)


def test_overlap_of_two_boxes_is_that_of_their_volumes():
    truth, prediction = box((0, 0, 0), (10, 10, 10)), box((5, 0, 0), (15, 10, 10))
    dice, iou, *_ = structure_scores(truth, prediction, (3, 1, 1))
    assert (dice, iou) == pytest.approx((1000 / 2000, 500 / 1500))


def test_thin_plates_are_as_far_apart_as_the_spacing_says():
    """Every voxel of a plate one voxel thick is surface: all distances are the same."""
    for axis, millimetres in enumerate((5.0, 2.0, 0.5)):
        start = [2, 2, 2]
        moved = [2, 2, 2]
        moved[axis] += 4
        plates = []
        for corner in (start, moved):
            end = [value + 10 for value in corner]
            end[axis] = corner[axis] + 1
            plates.append(box(corner, end))
        *_, hd95, assd = structure_scores(*plates, (5.0, 2.0, 0.5))
        assert (hd95, assd) == pytest.approx((4 * millimetres, 4 * millimetres))


def test_concentric_balls_differ_by_their_radii_whatever_the_spacing():
    spacing = (2.0, 1.0, 1.0)
    dice, iou, hd95, assd = structure_scores(ball(20, spacing), ball(25, spacing), spacing)
    share = (20 / 25) ** 3
    assert (dice, iou) == pytest.approx((2 * share / (1 + share), share), abs=0.01)
    assert assd == pytest.approx(5, abs=0.4)
    assert 5 - 0.4 < hd95 < 5 + 1.5


def test_one_stray_voxel_in_hundred_does_not_move_hd95_and_ten_do():
    truth = box((2, 2, 2), (3, 22, 22))  # a plate of 400 voxels, all surface
    few, many = truth.copy(), truth.copy()
    few[18, 2, 2:6] = True
    many[18, 2:4, 2:22] = True
    assert structure_scores(truth, few, (1, 1, 1))[2] == 0
    assert structure_scores(truth, many, (1, 1, 1))[2] == pytest.approx(16, abs=0.1)


def test_truth_and_prediction_may_be_exchanged():
    truth, prediction = ball(9, (2, 1, 1)), box((10, 20, 20), (30, 41, 50), (40, 60, 60))
    assert structure_scores(truth, prediction, (2, 1, 1)) == pytest.approx(
        structure_scores(prediction, truth, (2, 1, 1))
    )


def test_empty_structures():
    nothing, something = np.zeros((20, 24, 28), bool), box((3, 4, 5), (9, 12, 15))
    diagonal = np.sqrt(60**2 + 24**2 + 28**2)
    assert structure_scores(nothing, nothing, (3, 1, 1)) == (1, 1, 0, 0)
    for pair in ((nothing, something), (something, nothing)):
        assert structure_scores(*pair, (3, 1, 1)) == pytest.approx((0, 0, diagonal, diagonal))


def test_2d_images_have_contours():
    """In one slice a filled square's surface is its contour, not all of it."""
    outer, inner = box((0, 2, 2), (1, 18, 18), (1, 20, 20)), box((0, 4, 4), (1, 16, 16), (1, 20, 20))
    *_, hd95, assd = structure_scores(outer, inner, (999, 0.5, 0.5))
    assert hd95 == pytest.approx(np.hypot(1, 1), abs=0.3)
    assert 1 <= assd < 1.2


def test_distances_are_those_of_monais_own_metrics_on_the_whole_image():
    generator = np.random.default_rng(0)
    spacing = (2.5, 1.0, 0.75)
    truth = generator.random((12, 16, 18)) < 0.2
    prediction = truth ^ (generator.random(truth.shape) < 0.05)
    truth[:, :, :2] = True  # touches the border of the image
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pair = [torch.from_numpy(mask)[None, None] for mask in (prediction, truth)]
        options = {"include_background": True, "spacing": [spacing]}
        hd95 = compute_hausdorff_distance(*pair, percentile=95, **options).item()
        assd = compute_average_surface_distance(*pair, symmetric=True, **options).item()
    assert structure_scores(truth, prediction, spacing)[2:] == pytest.approx((hd95, assd))


@pytest.mark.parametrize(
    ("labels", "order"),
    [({"background": 0, "a": 1, "b": 2}, None), ({"background": 0, "all": [1, 2], "core": 2, "ignore": 3}, [1, 2])],
)
def test_overlap_is_that_of_nnunets_own_evaluation(tmp_path, labels, order):
    """With labels, and with regions and an ignore label."""
    generator = np.random.default_rng(2)
    truth, prediction = generator.integers(0, 3, (2, 6, 7, 8)).astype(np.uint8)
    if "ignore" in labels:
        truth[:, 0] = 3
    files = {name: str(tmp_path / f"{name}.nii.gz") for name in ("truth", "prediction")}
    sitk.WriteImage(sitk.GetImageFromArray(truth), files["truth"])
    sitk.WriteImage(sitk.GetImageFromArray(prediction), files["prediction"])
    structures = Structures.of({"labels": labels, "regions_class_order": order})
    chosen = [label if len(label) > 1 else label[0] for label in structures.labels]
    stock = compute_metrics(files["truth"], files["prediction"], SimpleITKIO(), chosen, structures.ignore)["metrics"]
    counts = np.ones_like(truth, bool) if structures.ignore is None else truth != structures.ignore
    for label, ours, theirs in zip(chosen, structures.masks(prediction), structures.masks(truth), strict=True):
        dice, iou, *_ = structure_scores(theirs & counts, ours & counts, (1, 1, 1))
        assert (dice, iou) == pytest.approx((stock[label]["Dice"], stock[label]["IoU"]))

"""Overlap and surface distances of one structure in one case, computed by MONAI."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from monai.metrics import compute_dice, compute_iou, get_mask_edges, get_surface_distance

Mask = npt.NDArray[np.bool_]

METRICS = ("Dice", "IoU", "HD95", "ASSD")
"""In the order of `structure_scores`; the last two are distances in mm, of which less is better."""


def structure_scores(truth: Mask, prediction: Mask, spacing: Sequence[float]) -> tuple[float, float, float, float]:
    """Dice, IoU, 95th percentile of the Hausdorff distance (HD95) and average symmetric surface distance (ASSD).

    A surface is the voxels of a structure that have a neighbour (by a face) outside it; distances run between voxel
    centres. HD95 is the larger of the two directed 95th percentiles; ASSD is the mean over the voxels of both surfaces.

    Every case counts for every method, so all four are defined where a structure is empty: in truth and prediction, the
    prediction is right (1, 1, 0, 0); in one of them, it is as wrong as can be (0, 0, and for both distances the
    diagonal of the image, the largest distance that there is).

    Args:
        truth: [z, y, x] or, with a first axis of length 1 as nnU-Net reads 2D images, [1, y, x].
        prediction: the same shape.
        spacing: millimetres along the three axes.

    Returns:
        Dice and IoU in [0, 1]; HD95 and ASSD in millimetres.
    """
    if truth.shape[0] == 1:
        truth, prediction, spacing = truth[0], prediction[0], spacing[1:]
    if not truth.any() and not prediction.any():
        return 1.0, 1.0, 0.0, 0.0
    if not truth.any() or not prediction.any():
        diagonal = float(np.linalg.norm(np.multiply(truth.shape, spacing)))
        return 0.0, 0.0, diagonal, diagonal
    ours, theirs = (torch.from_numpy(mask) for mask in _cropped(prediction, truth))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        dice, iou = (measure(ours[None, None], theirs[None, None]).item() for measure in (compute_dice, compute_iou))
        edges = get_mask_edges(ours, theirs)
        there, back = (
            get_surface_distance(a, b, spacing=tuple(map(float, spacing))) for a, b in (edges, reversed(edges))
        )
    hd95 = max(torch.quantile(distances, 0.95).item() for distances in (there, back))
    return dice, iou, hd95, torch.cat([there, back]).mean().item()


def _cropped(*masks: Mask) -> list[Mask]:
    """The smallest box that holds all masks: what is outside has no surface and no overlap."""
    anywhere = np.logical_or.reduce(masks)
    box = []
    for axis in range(anywhere.ndim):
        others = tuple(other for other in range(anywhere.ndim) if other != axis)
        (inside,) = np.nonzero(anywhere.any(axis=others))
        box.append(slice(inside[0], inside[-1] + 1))
    return [np.ascontiguousarray(mask[tuple(box)]) for mask in masks]

"""The page on a model's clusters: one HTML file that needs nothing beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nnunetv2_semisup.evaluation.clusters.model import ClusterModel
from nnunetv2_semisup.evaluation.clusters.prediction import CaseClusters
from nnunetv2_semisup.evaluation.clusters.purity import Purity
from nnunetv2_semisup.losses.edges import edge_map
from nnunetv2_semisup.visualization.cluster_maps import STYLE, choice, layers, middle_planes, script
from nnunetv2_semisup.visualization.overlays import overlay
from nnunetv2_semisup.visualization.page import figure, html_page, paragraph, table


def clusters_page(
    model: ClusterModel, n_cases: int, shown: Sequence[str], purities: Sequence[Purity], notes: Sequence[str]
) -> str:
    """The whole page.

    Args:
        model: that made the maps.
        n_cases: how many there are.
        shown: parts of the cases that are drawn, from `case_part`.
        purities: of the cases with labels, one a case and sub-head.
        notes: sentences on what was left out.
    """
    fold = model.checkpoint.parent.name.replace("_", " ")
    title = f"Clusters of {model.trainer.removeprefix('nnUNetTrainer')}, {fold}"
    body = [
        f"<h1>{escape(title)}</h1>",
        paragraph(
            f"{model.checkpoint.name} after {_number(model.epoch, 'epoch')}: {model.clusters} clusters, "
            f"{_number(len(model.heads), 'sub-head')}, {_number(n_cases, 'case')}, {len(shown)} shown.",
            "lead",
        ),
        *(f"<p><strong>Note.</strong> {escape(note)}</p>" for note in notes),
        *_purity(purities),
        "<h2>Slices</h2>",
        paragraph(
            "The network learned the clusters without labels. Good ones follow tissues and organs, and are uncertain "
            "(bright entropy) where the image has edges (bright gradient) and nowhere else. One colour everywhere "
            "means that the clusters have collapsed, a mean entropy near 1 that they are not trained yet. Entropy and "
            "gradient are shown between their own extremes. "
            "White lines on the image are the borders of the labels, where there are some."
        ),
        choice(model.clusters, len(model.heads)),
        *shown,
    ]
    return html_page(title, body, script(model.clusters), STYLE)


def case_part(
    case: str,
    image: npt.NDArray[np.float32],
    spacing: Sequence[float],
    found: CaseClusters,
    labels: npt.NDArray[np.integer[Any]] | None,
) -> str:
    """A case's heading and pictures: a row a plane, of the image, the clusters on it, their entropy, and the edges.

    `image` [C, *S] is shown by its first channel; the edges are of all channels, as the boundary loss sees them.
    """
    assert found.entropies is not None
    edges = edge_map(torch.from_numpy(image)[None], [float(space) for space in spacing], gamma=1.0)[0][0, 0].numpy()
    parts = [f"<h3>{escape(case)}</h3>"]
    for plane in middle_planes(image.shape[1:], labels):
        what = f"{plane.name} slice {plane.index} of {case}"
        clusters = layers(image[0], found.maps, plane, spacing, f"clusters on {what}")
        entropies = "".join(
            f"<div data-sub-head='{sub_head}'{' hidden' * (sub_head > 1)}>"
            + figure(
                overlay(entropy, plane, spacing),
                f"entropy of the assignment, mean {entropy.mean():.2f} of its maximum",
                f"entropy, {what}",
            )
            + "</div>"
            for sub_head, entropy in enumerate(found.entropies, start=1)
        )
        parts += [
            "<div class='strip'>",
            figure(overlay(image[0], plane, spacing, outlined=labels), f"image, {plane.name}", what),
            f"<figure>{clusters}<figcaption>clusters</figcaption></figure>",
            entropies,
            figure(overlay(edges, plane, spacing), "gradient of the image", f"gradient magnitude, {what}"),
            "</div>",
        ]
    return "\n".join(parts)


def _purity(purities: Sequence[Purity]) -> list[str]:
    if not purities:
        return []
    sub_heads = sorted({row.sub_head for row in purities})
    means = [[row for row in purities if row.sub_head == sub_head] for sub_head in sub_heads]
    numbers = ["purity", "of one cluster", "foreground Dice"]
    return [
        "<h2>Clusters against labels</h2>",
        table(
            ["mean over the cases", "cases", *numbers],
            [[f"sub-head {rows[0].sub_head}", str(len(rows)), *_cells(rows)] for rows in means],
        ),
        paragraph(
            "Purity is the share of the voxels whose label is the commonest one of their cluster in that case; a "
            "single cluster would have what stands beside it, so what counts is how much is above that. Foreground "
            "Dice is of all labelled structures together with the union of the clusters that are mostly foreground. "
            "More clusters raise both.",
            "small",
        ),
        "<details><summary>Case by case</summary>",
        table(
            ["case", "sub-head", *numbers],
            [[row.case, str(row.sub_head), *_cells([row])] for row in purities],
        ),
        "</details>",
    ]


def _cells(rows: Sequence[Purity]) -> list[str]:
    """Means over the rows, of each number where it exists."""
    cells = []
    for name in ("purity", "one_cluster", "foreground_dice"):
        values = [value for value in (getattr(row, name) for row in rows) if not math.isnan(value)]
        cells.append(f"{sum(values) / len(values):.3f}" if values else "–")
    return cells


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"

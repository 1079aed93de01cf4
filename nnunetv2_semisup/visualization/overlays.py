"""Slices of an image with a segmentation on it, as PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

Volume = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]
Picture = npt.NDArray[np.uint8]
_Scalar = TypeVar("_Scalar", bound=np.generic)

# Okabe & Ito (2008): told apart by colour-blind readers; brightened where dark on grey anatomy.
PALETTE = ((230, 159, 0), (86, 180, 233), (240, 228, 66), (226, 80, 60), (0, 190, 140), (204, 121, 167), (90, 130, 255))
"""RGB of label 1, 2, ...; it starts over after the last."""
OPACITY = 0.5
"""Of filled labels over the image."""
_LONG_SIDE = 240


@dataclass(frozen=True)
class Plane:
    """A slice of a volume: `index` along `axis`."""

    name: str
    axis: int
    index: int


def telling_planes(truth: Labels) -> list[Plane]:
    """The axial and the coronal slice of a label volume [z, y, x] that show most structures, then most voxels.

    One slice where the volume is 2D, which nnU-Net reads with a first axis of length 1.
    """
    names = ("axial", "coronal") if truth.shape[0] > 1 else ("slice",)
    planes = []
    for axis, name in enumerate(names):
        slices = np.moveaxis(truth, axis, 0)
        scores = [(len(np.unique(piece)), int((piece > 0).sum())) for piece in slices]
        planes.append(Plane(name, axis, max(range(len(scores)), key=scores.__getitem__)))
    return planes


def overlay(
    image: Volume,
    plane: Plane,
    spacing: Sequence[float],
    *,
    filled: Labels | None = None,
    outlined: Labels | None = None,
) -> str:
    """One slice as a data URI (PNG), as `draw` draws it."""
    data = png(draw(image, plane, spacing, filled=filled, outlined=outlined))
    return "data:image/png;base64," + base64.b64encode(data).decode()


def draw(
    image: Volume,
    plane: Plane,
    spacing: Sequence[float],
    *,
    filled: Labels | None = None,
    outlined: Labels | None = None,
    palette: Sequence[tuple[int, int, int]] = PALETTE,
) -> Picture:
    """One slice as RGB [height, width, 3], longest side 240 pixels, in true proportions.

    Args:
        image: intensities [z, y, x]; shown between their 1st and 99.5th percentile.
        plane: the slice; any but an axial one is shown with its top up.
        spacing: millimetres along (z, y, x).
        filled: labels [z, y, x] painted over the image.
        outlined: labels [z, y, x] whose borders are drawn in white.
        palette: RGB of label 1, 2, ...; it starts over after the last.
    """
    low, high = np.percentile(image, (1, 99.5))
    grey = np.clip((_cut(image, plane) - low) / max(float(high - low), 1e-6), 0, 1)
    size = _display_size(grey.shape, plane, spacing)
    shown = np.asarray(Image.fromarray((255 * grey).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC), float)
    rgb = np.repeat(shown[..., None], 3, axis=2)
    if filled is not None:
        labels = drawn_labels(filled, plane, spacing)
        colors = np.array(palette, float)[(labels - 1) % len(palette)]
        rgb = np.where(labels[..., None] > 0, (1 - OPACITY) * rgb + OPACITY * colors, rgb)
    if outlined is not None:
        rgb[_borders(drawn_labels(outlined, plane, spacing))] = 255
    return rgb.round().astype(np.uint8)


def drawn_labels(labels: Labels, plane: Plane, spacing: Sequence[float]) -> npt.NDArray[np.int32]:
    """One slice of labels [z, y, x], pixel by pixel where `draw` draws it."""
    piece = _cut(labels, plane)
    size = _display_size(piece.shape, plane, spacing)
    return np.asarray(Image.fromarray(piece.astype(np.int32)).resize(size, Image.Resampling.NEAREST))


def png(picture: Picture) -> bytes:
    """The PNG file of RGB pixels [height, width, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _cut(volume: npt.NDArray[_Scalar], plane: Plane) -> npt.NDArray[_Scalar]:
    piece: npt.NDArray[_Scalar] = np.moveaxis(volume, plane.axis, 0)[plane.index]
    return piece if plane.axis == 0 else piece[::-1]


def _display_size(shape: Sequence[int], plane: Plane, spacing: Sequence[float]) -> tuple[int, int]:
    """(width, height) in pixels, as PIL counts."""
    in_plane = [space for axis, space in enumerate(spacing) if axis != plane.axis]
    millimetres = [voxels * space for voxels, space in zip(shape, in_plane, strict=True)]
    scale = _LONG_SIDE / max(millimetres)
    return max(1, round(millimetres[1] * scale)), max(1, round(millimetres[0] * scale))


def _borders(labels: Labels) -> npt.NDArray[np.bool_]:
    """Pixels inside a structure whose right, left, lower or upper neighbour has another label."""
    padded = np.pad(labels, 1, mode="edge")
    centre = padded[1:-1, 1:-1]
    neighbours = (padded[2:, 1:-1], padded[:-2, 1:-1], padded[1:-1, 2:], padded[1:-1, :-2])
    return np.asarray((centre > 0) & np.any([centre != neighbour for neighbour in neighbours], axis=0))

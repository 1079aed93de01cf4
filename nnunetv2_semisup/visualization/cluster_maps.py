"""Cluster maps on slices of an image: one picture a case, and layers that a page's sliders choose from."""

from __future__ import annotations

import base64
import colorsys
import zlib
from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from nnunetv2_semisup.visualization.overlays import OPACITY, Labels, Picture, Plane, Volume, draw, drawn_labels, overlay

_GAP = 6
_ALONE = 200  # opacity of a single cluster, of 255
_GOLDEN = (5**0.5 - 1) / 2

STYLE = """
.choice { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .3rem 2rem; padding: .6rem 0;
  background: var(--page); border-bottom: 1px solid var(--line); }
.choice label { flex: 1 1 270px; font-size: .86rem; }
.choice input { display: block; width: 100%; margin: .2rem 0 0; accent-color: var(--accent); }
.layers { position: relative; }
.layers canvas { position: absolute; inset: 0; width: 100%; height: 100%; image-rendering: pixelated; }
h1, h3, p { overflow-wrap: anywhere; }
@media (max-width: 600px) { .strip { grid-template-columns: 1fr 1fr; } }
"""
"""What the page's CSS needs beyond its own for `choice` and `layers`; a strip of four pictures fits narrow screens."""


def middle_planes(shape: Sequence[int], labels: Labels | None = None) -> list[Plane]:
    """The axial, coronal and sagittal slice through the middle of a volume [z, y, x], or of what is labelled in it.

    The middle of the labels is the median along each axis, so that every slice shows some. One slice where the volume
    is 2D, which nnU-Net reads with a first axis of length 1.
    """
    middle = [size // 2 for size in shape]
    if labels is not None and (labels > 0).any():
        middle = [int(np.sort(positions)[len(positions) // 2]) for positions in np.nonzero(labels > 0)]
    names = ("axial", "coronal", "sagittal") if shape[0] > 1 else ("slice",)
    return [Plane(name, axis, middle[axis]) for axis, name in enumerate(names)]


def cluster_colors(clusters: int) -> list[tuple[int, int, int]]:
    """RGB of each cluster: neighbours in number are far apart in hue, and those of similar hue differ in lightness."""
    colors = []
    for cluster in range(clusters):
        lightness, saturation = ((0.55, 0.9), (0.72, 0.75), (0.4, 0.8))[cluster % 3]
        red, green, blue = colorsys.hls_to_rgb((0.08 + cluster * _GOLDEN) % 1, lightness, saturation)
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colors


def sheet(
    image: Volume,
    maps: Sequence[Labels],
    clusters: int,
    planes: Sequence[Plane],
    spacing: Sequence[float],
    labels: Labels | None = None,
) -> Picture:
    """One picture of a case, RGB: planes from left to right; the image, then the maps of the sub-heads, downwards.

    Args:
        image: intensities [z, y, x].
        maps: of each sub-head, clusters from 0 [z, y, x].
        clusters: how many there are.
        planes: the slices.
        spacing: millimetres along (z, y, x).
        labels: [z, y, x]; their borders are drawn on the image.
    """
    palette = cluster_colors(clusters)
    rows = [[draw(image, plane, spacing, outlined=labels) for plane in planes]]
    rows += [[draw(image, plane, spacing, filled=_painted(each), palette=palette) for plane in planes] for each in maps]
    return _stacked([_stacked(row, axis=1) for row in rows], axis=0)


def layers(image: Volume, maps: Sequence[Labels], plane: Plane, spacing: Sequence[float], description: str) -> str:
    """A slice of the image under the cluster maps of all sub-heads, of which `script` shows what the sliders say.

    Arguments as of `sheet`; `description` is what a screen reader says.
    """
    pieces = [drawn_labels(each, plane, spacing) for each in maps]
    height, width = pieces[0].shape
    return (
        f"<div class='layers'><img src='{overlay(image, plane, spacing)}' alt='{escape(description)}'>"
        f"<canvas width='{width}' height='{height}' data-maps='{' '.join(map(_packed, pieces))}'></canvas></div>"
    )


def choice(clusters: int, sub_heads: int) -> str:
    """The two sliders: 0 shows all clusters, k the k-th alone, which has value k - 1 in the files."""
    alone = " disabled" if sub_heads == 1 else ""
    return (
        "<div class='choice'>"
        "<label>Cluster: <output id='cluster-name'>all</output>"
        f"<input id='cluster' type='range' min='0' max='{clusters}' value='0'></label>"
        f"<label>Sub-head: <output id='sub-head-name'>1 of {sub_heads}</output>"
        f"<input id='sub-head' type='range' min='1' max='{sub_heads}' value='1'{alone}></label>"
        "</div>"
    )


def script(clusters: int) -> str:
    """Paints the layers whenever a slider moves, and shows of what has `data-sub-head` the chosen one's."""
    colors = ",".join(str(blue << 16 | green << 8 | red) for red, green, blue in cluster_colors(clusters))
    return _SCRIPT.replace("COLORS", colors).replace("OPACITY", str(round(255 * OPACITY))).replace("ALONE", str(_ALONE))


# What a page reads back from a canvas may be altered to protect from fingerprinting, so maps do not come as pictures.
_SCRIPT = """
const colors = [COLORS], cluster = document.getElementById('cluster'), subHead = document.getElementById('sub-head');
const unpacked = new Map();
async function unpack(text) {
  if (!unpacked.has(text)) {
    const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
    unpacked.set(text, new Uint16Array(await new Response(stream).arrayBuffer()));
  }
  return unpacked.get(text);
}
async function paint() {
  const chosen = +cluster.value, head = +subHead.value;
  document.getElementById('cluster-name').value =
    chosen ? `${chosen} of ${colors.length}, value ${chosen - 1} in the files` : `all ${colors.length}`;
  document.getElementById('sub-head-name').value = `${head} of ${subHead.max}`;
  for (const part of document.querySelectorAll('[data-sub-head]')) part.hidden = +part.dataset.subHead !== head;
  for (const canvas of document.querySelectorAll('canvas[data-maps]')) {
    const map = await unpack(canvas.dataset.maps.split(' ')[head - 1]);
    // The sliders may have moved on meanwhile.
    if (chosen !== +cluster.value || head !== +subHead.value) return;
    const context = canvas.getContext('2d'), layer = context.createImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(layer.data.buffer);
    for (let i = 0; i < map.length; i++)
      if (!chosen || map[i] === chosen - 1) pixels[i] = colors[map[i]] | (chosen ? ALONE : OPACITY) << 24;
    context.putImageData(layer, 0, 0);
  }
  document.body.dataset.painted = `${chosen}/${head}`;
}
cluster.addEventListener('input', paint);
subHead.addEventListener('input', paint);
paint();
"""


def _painted(clusters: Labels) -> Labels:
    """As labels, of which 0 is not painted."""
    return clusters.astype(np.int32) + 1


def _packed(piece: npt.NDArray[np.int32]) -> str:
    return base64.b64encode(zlib.compress(piece.astype("<u2").tobytes(), 9)).decode()


def _stacked(pictures: Sequence[Picture], axis: int) -> Picture:
    """Side by side (axis 1) or one below the other (axis 0), with black between them and where they are smaller."""
    other = 1 - axis
    longest = max(picture.shape[other] for picture in pictures)
    parts = []
    for i, picture in enumerate(pictures):
        padding = [(0, 0), (0, 0), (0, 0)]
        padding[other] = (0, longest - picture.shape[other])
        padding[axis] = (0, _GAP if i < len(pictures) - 1 else 0)
        parts.append(np.pad(picture, padding))
    return np.concatenate(parts, axis=axis)

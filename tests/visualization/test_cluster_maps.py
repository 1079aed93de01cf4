import base64
import re
import zlib

import numpy as np
import pytest

from nnunetv2_semisup.visualization.cluster_maps import (
    STYLE,
    choice,
    cluster_colors,
    layers,
    middle_planes,
    script,
    sheet,
)
from nnunetv2_semisup.visualization.overlays import Plane
from nnunetv2_semisup.visualization.page import html_page
from tests.browser import browser, require_browser

pytestmark = pytest.mark.fast
AXIAL = Plane("axial", 0, 0)
SPACING = (2.0, 1.0, 1.0)


def maps() -> list[np.ndarray]:
    """Two sub-heads on 4 x 6 x 8 voxels: halves from left to right, and quarters of the axial slice."""
    halves = np.zeros((4, 6, 8), np.uint8)
    halves[:, :, 4:] = 1
    return [halves, halves + 2 * (np.arange(6) >= 3)[None, :, None].astype(np.uint8)]


def test_planes_go_through_the_middle_of_image_or_labels():
    assert middle_planes((4, 6, 8)) == [Plane("axial", 0, 2), Plane("coronal", 1, 3), Plane("sagittal", 2, 4)]
    labels = np.zeros((9, 9, 9), int)
    labels[1, 2:5, 7] = labels[8, 3, 7] = 1
    planes = middle_planes(labels.shape, labels)
    assert [plane.index for plane in planes] == [1, 3, 7]
    # Between two organs there is nothing to see: every slice shows some label.
    labels[:] = 0
    labels[1], labels[8] = 1, 1
    assert all(np.moveaxis(labels, plane.axis, 0)[plane.index].any() for plane in middle_planes(labels.shape, labels))
    assert middle_planes((4, 6, 8), np.zeros((4, 6, 8), int)) == middle_planes((4, 6, 8))
    assert middle_planes((1, 6, 8)) == [Plane("slice", 0, 0)]


def test_every_cluster_has_a_colour_of_its_own():
    colors = np.array(cluster_colors(60), int)
    distances = np.abs(colors[:, None] - colors[None]).sum(-1)
    assert distances[~np.eye(60, dtype=bool)].min() >= 10
    assert np.abs(np.diff(colors[:20], axis=0)).sum(-1).min() > 100
    assert (colors[:5] == cluster_colors(5)).all()


def test_the_sheet_shows_the_image_above_the_maps():
    image = np.zeros((4, 6, 8))
    picture = sheet(image, maps(), 4, middle_planes(image.shape), SPACING)
    # Axial 180 x 240 pixels, coronal 240 x 240, sagittal 240 x 180, with gaps of 6; three rows of the highest.
    assert picture.shape == (3 * 240 + 2 * 6, 240 + 240 + 180 + 2 * 6, 3)
    colors = np.array(cluster_colors(4), int)
    left, right = picture[300, 20], picture[300, 220]
    np.testing.assert_allclose(left, colors[0] / 2, atol=1)
    np.testing.assert_allclose(right, colors[1] / 2, atol=1)
    assert (picture[:170, :240] == 0).all()


def test_layers_hold_the_maps_as_they_are_drawn():
    html = layers(np.random.default_rng(0).random((4, 6, 8)), maps(), AXIAL, SPACING, "it's a slice")
    assert "alt='it&#x27;s a slice'" in html
    width, height = (int(re.search(rf"{name}='(\d+)'", html).group(1)) for name in ("width", "height"))
    assert (width, height) == (240, 180)
    packed = re.search("data-maps='(.*?)'", html).group(1).split(" ")
    for text, expected in zip(packed, maps(), strict=True):
        shown = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u2").reshape(height, width)
        np.testing.assert_array_equal(shown[15::30, 15::30], expected[0])


def test_the_sliders_choose_in_a_browser(tmp_path):
    """All clusters, one alone, the other sub-head: pixel for pixel, and without a request."""
    require_browser()
    parts = [choice(4, 2), layers(np.zeros((4, 6, 8)), maps(), AXIAL, SPACING, "slice")]
    parts += ["<p data-sub-head='1'>first</p>", "<p data-sub-head='2' hidden>second</p>"]
    page = tmp_path / "page.html"
    page.write_text(html_page("t", parts, script(4), STYLE))
    colors = cluster_colors(4)

    def pixel(tab, x: int, y: int) -> list[int]:
        code = f"[...document.querySelector('canvas').getContext('2d').getImageData({x}, {y}, 1, 1).data]"
        return tab.evaluate(code)

    def choose(tab, cluster: int, sub_head: int) -> None:
        for name, value in (("cluster", cluster), ("sub-head", sub_head)):
            slider = f"document.getElementById('{name}')"
            tab.evaluate(f"{slider}.value = {value}; {slider}.dispatchEvent(new Event('input'))")
        wait(tab, f"{cluster}/{sub_head}")

    def wait(tab, state: str) -> None:
        for _ in range(200):
            if tab.evaluate("document.body.dataset.painted") == state:
                return
        raise AssertionError(f"not painted: {state}")

    def near(shown: list[int], color: tuple[int, int, int]) -> bool:
        # A canvas keeps colours multiplied by their opacity.
        return bool(np.abs(np.array(shown[:3]) - color).max() <= 2)

    with browser(tmp_path) as tab:
        tab.open(page, 400)
        wait(tab, "0/1")
        assert near(pixel(tab, 10, 10), colors[0])
        assert near(pixel(tab, 230, 170), colors[1])
        assert tab.evaluate("document.getElementById('cluster-name').value") == "all 4"
        choose(tab, 2, 1)
        assert pixel(tab, 10, 10)[3] == 0
        assert pixel(tab, 230, 170)[3] > 0
        assert tab.evaluate("document.getElementById('cluster-name').value") == "2 of 4, value 1 in the files"
        assert tab.evaluate("[...document.querySelectorAll('[data-sub-head]')].map(p => p.hidden)") == [False, True]
        choose(tab, 0, 2)
        assert near(pixel(tab, 230, 170), colors[3])
        assert near(pixel(tab, 10, 170), colors[2])
        assert tab.evaluate("[...document.querySelectorAll('[data-sub-head]')].map(p => p.hidden)") == [True, False]
        assert [url for url in tab.requests if not url.startswith("data:")] == [page.absolute().as_uri()]
        # What is complained about is that this test reads pixels back.
        assert [text for text in tab.errors if "getImageData" not in text] == []


def test_one_sub_head_needs_no_slider():
    assert "disabled" in choice(5, 1)
    assert "disabled" not in choice(5, 2)

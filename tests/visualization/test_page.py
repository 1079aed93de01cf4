import re

import pytest

from nnunetv2_semisup.visualization.page import color_key, figure, html_page, paragraph, table

pytestmark = pytest.mark.fast


def test_texts_are_escaped():
    page = html_page(
        "a < b", [paragraph("x & y", "lead"), table(["<th>"], [["<td>"]]), color_key(["<k>"], [(1, 2, 3)])]
    )
    for text in ("a &lt; b", "x &amp; y", "&lt;th&gt;", "&lt;td&gt;", "&lt;k&gt;"):
        assert text in page
    assert "alt='it&#x27;s'" in figure("data:,", "c", "it's")


def test_best_cells_stand_out():
    cells = re.findall(r"<td( class='best')?>(\w+)", table(["a", "b"], [["x", "y"]], [[False, True]]))
    assert cells == [("", "x"), (" class='best'", "y")]


def test_every_colour_has_a_value_on_light_and_on_dark():
    page = html_page("t", [])
    light, dark = re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    names = {name for name in re.findall(r"var\((--[\w-]+)\)", page)} - {"--key"}
    for theme in (light, dark):
        assert names <= set(re.findall(r"(--[\w-]+):", theme))

import re

import pytest

from nnunetv2_semisup.visualization.page import (
    color_key,
    figure,
    html_page,
    long_table,
    paragraph,
    sortable_table,
    table,
)

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


def test_sortable_tables_know_what_each_cell_sorts_by():
    shown = sortable_table([("<name>", "it's why")], [[("[+0.1, +0.2]", 0.1)], [("", "")]])
    assert "data-key='0.1'>[+0.1, +0.2]</td>" in shown
    assert "data-key=''></td>" in shown
    assert "title='it&#x27;s why'><button type='button'>&lt;name&gt;</button>" in shown


def test_long_cells_are_escaped_and_may_break():
    assert "<td class='long'>a &lt; b</td>" in long_table(["h"], [["a < b"]])


def test_a_page_has_a_script_only_where_it_is_asked_for():
    assert "<script>" not in html_page("t", [])
    assert "<script>run()</script></body>" in html_page("t", [], "run()")

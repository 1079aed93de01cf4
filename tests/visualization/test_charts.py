import math
import re
from xml.etree import ElementTree

import pytest

from nnunetv2_semisup.visualization.charts import COLORS, Differences, Series, difference_dots, line_chart, paired_dots

pytestmark = pytest.mark.fast


def points(svg):
    """Pixels of every line of a chart."""
    lines = ElementTree.fromstring(svg).iter("polyline")
    return [[tuple(map(float, pair.split(","))) for pair in line.get("points").split()] for line in lines]


def test_line_is_to_scale_and_upwards_is_more():
    (line,) = points(line_chart([Series("loss", [(0, 0.0), (1, 1.0), (2, 0.5)])], label="loss"))
    (x0, y0), (x1, y1), (x2, y2) = line
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 < y2 < y0
    assert y0 - y2 == pytest.approx((y0 - y1) / 2, abs=0.2)


def test_values_that_are_not_finite_are_left_out():
    (line,) = points(line_chart([Series("x", [(0, math.nan), (1, 1.0), (2, math.inf), (3, 2.0)])], label="x"))
    assert len(line) == 2


def test_no_value_at_all_is_a_sentence():
    assert "no value" in line_chart([Series("x", [(0, math.nan)])], label="x")


def test_one_value_and_constant_values_are_drawn():
    assert "<circle" in line_chart([Series("x", [(3, 1.0)])], label="x")
    (line,) = points(line_chart([Series("x", [(0, 1.0), (1, 1.0)])], label="x"))
    assert line[0][1] == line[1][1]


def test_small_and_large_ticks_have_short_texts():
    for scale in (1e-9, 1e-4, 1e-2, 1, 1e3):
        svg = line_chart([Series("x", [(0, 1.1 * scale), (1, 1.4 * scale)])], label="x")
        texts = [text.text for text in ElementTree.fromstring(svg).iter("text")]
        assert max(map(len, texts)) <= 8, texts


def test_names_are_escaped():
    svg = line_chart([Series("<a&b>", [(0, 0.0), (1, 1.0)])], label="it's <b>")
    assert ElementTree.fromstring(svg).find(".//title").text == "<a&b>"
    svg = paired_dots(["<case>"], {"a & b": [0.5]}, label="x")
    assert ElementTree.fromstring(svg).find(".//title").text.startswith("<case>, a & b")


def test_dots_stand_at_their_values_with_a_line_between():
    svg = ElementTree.fromstring(paired_dots(["one", "two"], {"a": [0.5, 0.75], "b": [1.0, math.nan]}, label="x"))
    dots = {circle.find("title").text: float(circle.get("cx")) for circle in svg.iter("circle")}
    assert set(dots) == {"one, a: 0.500", "one, b: 1.000", "two, a: 0.750"}
    assert dots["two, a: 0.750"] == pytest.approx((dots["one, a: 0.500"] + dots["one, b: 1.000"]) / 2, abs=0.1)
    joins = [line for line in svg.iter("line") if line.get("class") == "join"]
    assert len(joins) == 1
    assert float(joins[0].get("x1")) == dots["one, a: 0.500"]


def test_colours_come_from_the_page():
    svg = line_chart([Series("x", [(0, 0.0), (1, 1.0)], color=2)], label="x")
    assert not re.search(r"#[0-9a-f]{3,6}|rgb\(|style=", svg)
    assert "class='s2'" in svg


def test_differences_stand_to_scale_with_their_interval_and_a_line_at_0():
    rows = [
        Differences("<a>", [("one", -0.1), ("two", 0.2)], (0.05, -0.1, 0.2)),
        Differences("b", [("one", 0.1)], (0.1, math.nan, math.nan)),
    ]
    svg = ElementTree.fromstring(difference_dots(rows, label="x"))
    dots = {
        circle.find("title").text: float(circle.get("cx")) for circle in svg.iter("circle") if circle.get("r") == "4"
    }
    assert set(dots) == {"one: -0.100", "two: +0.200", "one: +0.100"}
    lines = {line.get("class"): line for line in svg.iter("line")}
    zero = float(lines["zero"].get("x1"))
    assert (dots["two: +0.200"] - zero) == pytest.approx(2 * (zero - dots["one: -0.100"]), abs=0.3)
    bars = [line for line in svg.iter("line") if line.get("class") == "bar"]
    assert len(bars) == 1  # an interval without ends is not drawn
    assert (float(bars[0].get("x1")), float(bars[0].get("x2"))) == (dots["one: -0.100"], dots["two: +0.200"])
    assert bars[0].find("title").text == "<a>: +0.0500 [-0.1000, +0.2000]"


def test_a_ninth_series_has_the_first_colour():
    assert "class='s0'" in line_chart([Series("x", [(0, 0.0), (1, 1.0)], color=COLORS)], label="x")


def test_long_names_of_cases_have_room():
    svg = ElementTree.fromstring(paired_dots(["BraTS-GLI-00001-000-of-2023"], {"a": [0.5]}, label="x"))
    (name,) = [text for text in svg.iter() if text.get("class") == "name"]
    assert float(name.get("x")) > 6.5 * len("BraTS-GLI-00001-000-of-2023")
    dot = next(element for element in svg.iter() if element.tag.endswith("circle"))
    assert float(dot.get("cx")) > float(name.get("x"))

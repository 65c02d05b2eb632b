"""SVG plots: proportions, scales, and escaped texts."""

import re
from xml.etree import ElementTree

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.report.plots import Bar, Histogram, bars, bin_labels, columns, histogram, tally, timeline
from schemas.base import Span


def shapes(svg, kind):
    return [shape for shape in ElementTree.fromstring(svg).iter("rect") if shape.get("class") == kind]


def percent(shape, name):
    return float(shape.get(name).removesuffix("%"))


def test_bars_are_as_long_as_their_values_and_parts_follow_one_another():
    svg = bars("title", "text", [Bar("a", (10.0, 30.0)), Bar("b", (20.0, 0.0))])
    assert [percent(shape, "width") for shape in shapes(svg, "s0")] == [25.0, 50.0]
    [second] = shapes(svg, "s1")
    assert (percent(second, "x"), percent(second, "width")) == (25.0, 75.0)


def test_a_mark_beyond_all_bars_widens_the_scale():
    svg = bars("title", "text", [Bar("a", (5.0,), mark=10.0)])
    assert percent(shapes(svg, "s0")[0], "width") == 50.0
    assert 'class="mark" x1="100.000%"' in svg


def test_a_timeline_shows_spans_where_they_are_and_short_ones_at_all():
    svg = timeline(
        "evidence", "", 1_000_000, [Span(start_us=250_000, end_us=500_000), Span(start_us=999_998, end_us=999_999)]
    )
    spans = shapes(svg, "span")
    assert (percent(spans[0], "x"), percent(spans[0], "width")) == (25.0, 25.0)
    assert spans[3].get("width") == "3"
    assert percent(spans[3], "x") == 99.0


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=50))
def test_every_value_is_in_one_bin_and_bins_are_round(values):
    shape = histogram([np.array(values)])
    assert sum(shape.counts[0]) == len(values)
    width = shape.edges[1] - shape.edges[0]
    assert re.fullmatch(r"[125](\.0+)?e[+-]\d+", f"{width:.6e}")
    assert len(bin_labels(shape)) == len(shape.counts[0])


@given(st.lists(st.integers(0, 300), min_size=1, max_size=50))
def test_a_tally_counts_whole_numbers(values):
    shape = tally(values)
    assert dict(zip(bin_labels(shape), shape.counts[0], strict=True)) == {
        str(number): values.count(number) for number in range(min(values), max(values) + 1)
    }
    assert len(shape.ticks) == len(shape.counts[0])


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), min_size=1, max_size=40))
def test_columns_stay_inside_the_plot_and_keep_their_proportions(counts):
    shape = Histogram(tuple(map(float, range(len(counts) + 1))), tuple(zip(*counts, strict=True)), ("",) * len(counts))
    drawn = [*shapes(columns("t", "d", shape), "s0"), *shapes(columns("t", "d", shape), "s1")]
    assert all(percent(each, "x") >= 0 and percent(each, "x") + percent(each, "width") <= 100.001 for each in drawn)
    assert all(float(each.get("y")) >= 17.9 for each in drawn)
    assert len(drawn) == sum(value > 0 for pair in counts for value in pair)


def test_a_plot_without_values_is_still_a_picture():
    for svg in (bars("t", "d", []), columns("t", "d", histogram([np.array([])])), columns("t", "d", tally([]))):
        assert ElementTree.fromstring(svg).find("title").text == "t"


@given(st.text(alphabet="<>&\"'ab/", max_size=30))
def test_texts_are_never_markup(text):
    tree = ElementTree.fromstring(bars(text, text, [Bar(text, (1.0,), text)]))
    assert {child.tag for child in tree} <= {"title", "desc", "text", "rect"}
    assert [child.text or "" for child in tree if child.tag == "text"] == [text, text]

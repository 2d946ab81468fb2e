import re
import xml.etree.ElementTree as ET

import pytest

from compressor.report.figures import figures


@pytest.mark.parametrize("case", ["estimated", "measured", "mixed", "no task", "nothing measured", "worse"])
def test_every_figure_is_an_element_with_words_and_no_colour_of_its_own(case, reports):
    drawn = figures(reports[case])
    # Without a finished block there is no ratio to draw.
    assert set(drawn) == {"cost", "latency", "size"} | ({"ratios"} if case != "nothing measured" else set())
    for key, figure in drawn.items():
        root = ET.fromstring(figure.svg)
        assert root.attrib["role"] == "img"
        assert root[0].tag == "title"
        assert root[0].text
        assert root[1].tag == "desc"
        assert root[1].text
        assert all(e.attrib["id"].startswith(f"plot-{key}-") for e in root.iter() if "id" in e.attrib)
        # Placeholders have all become variables; none of matplotlib's own colours is left.
        assert not re.findall(r"#[0-9a-f]{6}\b", figure.svg)
        assert "currentColor" in figure.svg
        assert "<image" not in figure.svg
        assert figure.caption


def test_the_axis_says_where_the_joules_come_from(reports):
    def axis(case):
        return " ".join(figures(reports[case])["cost"].svg.split())

    assert "ESTIMATED energy per inference (cpu-time), mJ" in axis("estimated")
    assert "energy per inference, measured (rapl), mJ" in axis("measured")
    assert "ONNX int8" not in re.findall(r"<text[^>]*>([^<]*)", axis("mixed"))


def test_estimated_joules_are_not_among_the_ratios(reports):
    assert "energy" not in figures(reports["estimated"])["ratios"].svg.lower()
    assert "energy (rapl)" in figures(reports["measured"])["ratios"].svg


def test_drawing_is_repeatable(reports):
    assert figures(reports["measured"]) == figures(reports["measured"])


def test_hostile_names_break_no_figure(hostile):
    for figure in figures(hostile).values():
        tags = {element.tag for element in ET.fromstring(figure.svg).iter()}
        assert "script" not in tags


def test_names_in_other_scripts_and_formulas_are_drawn_as_they_are(fictional_names):
    for name in ("模型 int8", "نموذج", "$\\frac{", "a\\b_{c}^$"):
        assert name in figures(fictional_names(name))["size"].svg


def test_a_report_without_measurements_has_no_figures(reports):
    from dataclasses import replace

    empty = replace(reports["measured"], measurements=(), comparisons=(), control=(), break_even=(), parity={})
    assert figures(empty) == {}

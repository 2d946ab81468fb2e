import re
import xml.etree.ElementTree as ET

import pytest

from compressor.report.figures import figures, pareto
from compressor.report.power import power_figure
from compressor.report.waterfall import waterfall_figure


@pytest.mark.parametrize("case", ["estimated", "measured", "mixed", "no task", "nothing measured", "worse"])
def test_every_figure_is_an_element_with_words_and_no_colour_of_its_own(case, pages):
    drawn = pages.figures(case)
    always = {"cost", "latency", "size", "waterfall", "sensitivity"}
    # Without a finished block there is no ratio to draw, and nothing is paid back.
    blocks = {"ratios", "life"} if case != "nothing measured" else set()
    watts = {"power"} if case in ("measured", "worse", "nothing measured") else set()
    assert set(drawn) == always | blocks | watts | ({"moved"} if case != "no task" else set())
    for key, svg in drawn.items():
        root = ET.fromstring(svg)
        assert root.attrib["role"] == "img"
        assert root[0].tag == "title"
        assert root[0].text
        assert root[1].tag == "desc"
        assert root[1].text
        assert all(e.attrib["id"].startswith(f"plot-{key}-") for e in root.iter() if "id" in e.attrib)
        # Placeholders have all become variables; none of matplotlib's own colours is left.
        assert not re.findall(r"#[0-9a-f]{6}\b", svg)
        assert "currentColor" in svg
        assert "<image" not in svg


def test_the_axis_says_where_the_joules_come_from(pages):
    def axis(case):
        return " ".join(pages.figures(case)["cost"].split())

    assert "energy per inference, measured (rapl), mJ" in axis("measured")
    # Where any arm's joules were only estimated, all arms are drawn by what was measured in all of them.
    assert "CPU time per inference, ms" in axis("estimated")
    assert "CPU time per inference, ms" in axis("mixed")
    assert "ONNX int8" in re.findall(r"<text[^>]*>([^<]*)", axis("mixed"))


@pytest.mark.parametrize(
    ("points", "higher", "front"),
    [
        ([(1, 90), (2, 91), (3, 89)], True, [0, 1]),
        ([(3, 95), (1, 90), (2, 90), (2, 93)], True, [1, 3, 0]),
        ([(1, 0.2), (2, 0.1), (3, 0.15)], False, [0, 1]),
        ([(1, 90), (1, 91)], True, [1]),
        ([], True, []),
    ],
)
def test_the_pareto_front_holds_what_no_other_beats_in_both(points, higher, front):
    assert pareto(points, higher_is_better=higher) == front


def test_estimated_joules_are_not_among_the_ratios(pages):
    assert "energy" not in pages.figures("estimated")["ratios"].lower()
    assert "energy (rapl)" in pages.figures("measured")["ratios"]


def test_the_waterfall_keeps_the_runtime_apart_from_the_compression(pages):
    told = re.search(r"<desc[^>]*>([^<]*)", pages.figures("measured")["waterfall"])[1]
    assert "PyTorch fp32 (start): 32.2 mJ" in told
    assert "ONNX fp32 (runtime, nothing compressed): 14.2 mJ" in told
    assert "int8 (compression): 5.2 mJ" in told


def test_drawing_is_repeatable(reports):
    assert waterfall_figure(reports["measured"]) == waterfall_figure(reports["measured"])


def test_hostile_names_break_no_figure(pages):
    drawn = pages.figures("hostile")
    assert len(drawn) >= 7
    for svg in drawn.values():
        assert "script" not in {element.tag for element in ET.fromstring(svg).iter()}


def test_names_in_other_scripts_and_formulas_are_drawn_as_they_are(fictional_names):
    for name in ("模型 int8", "نموذج", "$\\frac{", "a\\b_{c}^$"):
        assert name in power_figure(fictional_names(name)).svg


def test_a_report_without_measurements_has_no_figures(reports):
    from dataclasses import replace

    empty = replace(
        reports["measured"], measurements=(), comparisons=(), control=(), break_even=(), parity={}, confusion=None
    )
    assert figures(empty) == {}

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from compressor.report.canvas import Label, label_points
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


def words(svg):
    return re.findall(r"<text[^>]*>([^<]*)", svg)


def test_of_several_results_only_what_decides_is_drawn_against_each_baseline(make_many):
    ratios = words(figures(make_many(6, 3))["ratios"].svg)
    assert sum(name.startswith("vs ") for name in ratios) == 6
    assert "energy (rapl), candidate / baseline" in ratios


def test_names_keep_clear_of_the_other_points_bars():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.set(xlim=(0, 100), ylim=(0, 100))
    crowded = [Label("a longer name", 20, 50, "#123456", (10, 90)), Label("b", 40, 50, bar=(10, 55))]
    label_points(axes, crowded)
    (first, _) = axes.texts
    # Below its point it would cross the second one's bar, so it stands above that.
    assert first.get_position()[1] == pytest.approx(0.55)
    assert first.get_color() == "#123456"


def test_one_arm_that_none_beats_needs_no_line(reports):
    report = reports["measured"]
    first, *others = report.measurements
    best = [replace(m, score=replace(m.score, value=0.99)) if m.role == "candidate" else m for m in others]
    caption = figures(replace(report, measurements=(first, *best)))["cost"].caption
    assert "Dashed" not in caption
    assert "By their means no other arm is cheaper or better than ONNX int8." in caption


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

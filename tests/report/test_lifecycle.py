from dataclasses import replace

import pytest

from compressor.report.lifecycle import life, lifecycle_section, rebound_text, total
from compressor.results import Usage


def test_the_curves_cross_at_the_break_even(reports):
    found = life(reports["measured"])
    at = found.paid_back.inferences
    before, after = total(found, found.before, at, 0.0), total(found, found.after, at, found.compressing)
    # The break-even is on paired differences, the curves on geometric means: close, not the same.
    assert before.value == pytest.approx(after.value, rel=1e-3)
    assert before.ci95[0] < before.value < before.ci95[1]


def test_training_moves_both_curves_alike(reports):
    report = reports["measured"]
    without = life(replace(report, usage=None))
    with_training = life(report)
    assert with_training.training == 1_800_000
    for per, cost in ((with_training.before, 0.0), (with_training.after, with_training.compressing)):
        assert total(with_training, per, 10, cost).value == total(without, per, 10, cost).value + 1_800_000


def test_the_section_says_break_even_and_rebound_with_intervals(reports):
    text = " ".join(lifecycle_section(reports["measured"]).text)
    assert "Break-even: after 135 000 [129 000, 141 000] inferences." in text
    assert "2.71× [2.57, 2.86] as many inferences would eat the whole saving (energy per inference, measured)" in text


@pytest.mark.parametrize("case", ["across one", "worse", "control failed"])
def test_no_rebound_is_told_of_a_saving_that_is_not_established(case, reports):
    assert rebound_text(reports[case]) == (
        "No saving per inference is established, so there is none that more use could eat."
    )


def test_a_break_even_that_is_never_established_says_why(reports):
    text = lifecycle_section(reports["worse"]).text
    assert "Break-even: never established, an inference costs more than before." in text


def test_stated_uses_make_a_table_that_adds_up(reports):
    report = replace(reports["measured"], usage=Usage(inferences=1_000_000))
    [table] = lifecycle_section(report).tables
    cells = [[cell.text for cell in row] for row in table.rows]
    assert cells[0][:3] == ["ONNX fp32", "none counted", "none"]
    assert cells[1][2] == "1.20 kJ"
    assert cells[1][3:] == ["5.2 kJ", "6.4 kJ", "6.4 mJ"]
    assert lifecycle_section(replace(report, usage=None)).tables == ()


def test_without_costs_there_is_no_curve(reports):
    assert life(replace(reports["measured"], stages=(), break_even=())) is None
    assert life(reports["nothing measured"]) is None

"""The list in a terminal: 80 columns whatever the names are, and no estimate that passes for a measurement."""

from dataclasses import replace

import pytest
from rich.cells import cell_len

from compressor.history.database import Entry
from compressor.history.listing import listing
from compressor.history.rows import Mean, rows_of


def entry(report):
    run, arms = rows_of(report, "abc1234" + "0" * 57, None)
    return Entry(run, next(a for a in arms if a.listed), None)


def test_what_a_line_says(fictional):
    lines = list(listing([entry(fictional.measured())]))
    assert lines == [
        "ID       model, method       task           score  inference     spent      CO₂e",
        "abc1234  resnet8 int8 b32    fashi…ores)   91.9 %     5.2 mJ   1.20 kJ    600 ng",
    ]


def test_an_estimate_is_marked_and_explained(fictional):
    lines = list(listing([entry(fictional.estimated()), entry(fictional.measured())], more=1200))
    assert "  ~3.73 mJ  ~1.20 kJ  " in lines[1]
    assert "~" not in lines[2]
    assert lines[3:] == [
        "",
        "~ estimated, not measured: never ranked among measured joules",
        "… and 1 200 more: --limit 0 shows all",
    ]


def test_a_replayed_recording_is_marked_as_one(fictional):
    meter = replace(fictional.RAPL, provenance="replayed")
    lines = list(listing([entry(fictional.build((meter,)))]))
    assert "  *5.2 mJ  *1.20 kJ" in lines[1]
    assert lines[-1] == "* replayed from a recording, not measured here"


def test_how_it_ran_is_named_where_it_is_not_one_example_at_a_time(fictional):
    one = entry(fictional.measured())
    for workload, batch, shown in (
        ("", 1, "resnet8 int8 "),
        ("", 8, "resnet8 int8 b8 "),
        ("prefill of 16 tokens", 1, "re…t8 int8 prefill "),
    ):
        line = list(listing([replace(one, arm=replace(one.arm, workload=workload, batch=batch))]))[1]
        assert line.startswith(f"abc1234  {shown}")


def test_what_is_not_known_is_a_dash(fictional):
    line = list(listing([entry(replace(fictional.nothing_measured(), stages=(), usage=None))]))[1]
    assert line.split()[-2:] == ["–", "–"]


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [(0.59, "target", "0.590"), (12.3, "dB", "12.3 dB"), (1_234_567.0, "", "1e+06"), (-0.5, "target²", "−0.500")],
)
def test_neither_a_unit_nor_a_number_is_cut_off(fictional, value, unit, shown):
    one = entry(replace(fictional.measured(), usage=None))
    line = list(listing([replace(one, arm=replace(one.arm, score=Mean(value, None), score_unit=unit))]))[1]
    assert f"  {shown}  " in line


def test_without_carbon_its_room_goes_to_the_names(fictional):
    heads, line = listing([entry(replace(fictional.measured(), usage=None))])
    assert heads.split()[-2:] == ["inference", "spent"]
    assert "  fashion…scores)  " in line
    assert max(map(len, (heads, line))) <= 80


def test_agreement_on_random_inputs_does_not_pass_for_a_task(fictional):
    assert "  (random)  " in list(listing([entry(fictional.synthetic())]))[1]


def test_hostile_names_stay_on_their_line(fictional):
    nasty = "<b>\x1b[31m\u202e\nname\t" + "x" * 10_000
    wide = "模型" * 30
    for name in (nasty, wide, "ÅÅ" * 20, "a\u0301\u0301\u0301\u0301" * 50):
        report = fictional.measured()
        report = replace(report, model=replace(report.model, name=name), task=replace(report.task, name=name))
        lines = list(listing([entry(report)]))
        assert len(lines) == 2
        for line in lines:
            assert cell_len(line) <= 80
            assert line.isprintable()
        assert "91.9 %" in lines[1]

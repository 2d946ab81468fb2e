import re
from dataclasses import replace

import pytest
from rich.cells import cell_len

from compressor.report.terminal import render_terminal

ANSI = re.compile(r"\x1b\[[0-9;]*m")
CASES = [
    "estimated", "measured", "control failed", "across one", "missing domain", "mixed", "worse", "nothing measured",
    "synthetic", "no task",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_no_line_is_wider_than_the_terminal_and_colour_adds_no_word(case, reports):
    plain = render_terminal(reports[case])
    assert "\x1b" not in plain
    assert max(cell_len(line) for line in plain.splitlines()) <= 80
    assert len(plain.splitlines()) <= 38
    coloured = render_terminal(reports[case], color=True)
    assert "\x1b[" in coloured
    lines = [ANSI.sub("", line).rstrip() for line in coloured.splitlines()]
    assert lines == plain.splitlines()


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_hostile_and_wide_names_stay_within_the_width(hostile, color, width):
    text = render_terminal(hostile, width, color)
    lines = [ANSI.sub("", line) for line in text.splitlines()]
    assert "\x1b" not in "".join(lines)
    assert max(cell_len(line) for line in lines) <= width


def test_wide_characters_count_twice(reports):
    report = replace(reports["measured"], headline="模型" * 100, warnings=("警告" * 100,))
    assert max(cell_len(line) for line in render_terminal(report).splitlines()) <= 80


def test_many_arms_are_cut_and_counted(make_many):
    text = render_terminal(make_many(30, 4))
    assert "and 22 more arms in the report" in text
    assert "and 52 more comparisons in the report" in text


def test_it_shows_deltas_with_interval_limit_and_kernels(reports):
    text = render_terminal(reports["measured"])
    assert re.search(r"^Energy, measured +\d+\.\d % less \[[\d., ]+\] +±\d\.\d % +better$", text, re.MULTILINE)
    assert "int8: 20 of 21 compute ops" in text
    assert re.search(r"^Accuracy +0\.05 points lost \[[\d., ]+\] +1 point +retained$", text, re.MULTILINE)

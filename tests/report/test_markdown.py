import re

import pytest

from compressor.report.markdown import escape, render_markdown
from compressor.report.view import view


@pytest.mark.parametrize("case", ["estimated", "measured", "nothing measured", "mixed", "worse", "no task"])
def test_every_table_has_the_same_number_of_cells_in_each_row(case, reports):
    tables = re.findall(r"(?:^\|.*\n)+", render_markdown(reports[case]), re.MULTILINE)
    assert len(tables) > 6
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_hostile_text_opens_no_markup(hostile):
    text = render_markdown(hostile)
    fence = re.search(r"^(`{3,})text\n.*?^\1$", text, re.DOTALL | re.MULTILINE)
    assert fence is not None
    prose = text.replace(fence[0], "")
    assert not re.search(r"(?<!\\)<(?!/?details>|/?summary>)", prose)
    assert not re.search(r"(?<!\\)`", prose)
    assert "\x1b" not in text
    assert "\u202e" not in text
    for table in re.findall(r"(?:^\|.*\n)+", prose, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_it_begins_with_the_verdict_and_holds_every_section(reports):
    report = reports["measured"]
    text = render_markdown(report)
    assert text.splitlines()[4] == f"**{escape(report.headline)}**"
    for section in view(report).sections:
        assert f"## {section.title}" in text
    assert f"```text\n{report.command}\n```" in text
    assert text.endswith("\n")

"""The report's summary for a terminal: what matters in about 30 lines."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from compressor.report import aggregates
from compressor.report.model import Table as ViewTable
from compressor.report.model import Tone
from compressor.report.text import shorten
from compressor.report.view import view
from compressor.results import Report

if TYPE_CHECKING:
    from rich.console import Console

_STYLES: dict[Tone, str] = {
    "plain": "",
    "good": "green",
    "bad": "bold red",
    "open": "dim",
    "void": "bold red",
    "measured": "green",
    "estimated": "yellow",
}
_ARM_COLUMNS = ("arm", "score", "energy", "cpu", "p50", "size")
_HEADS = {"arm": "arm", "energy": "energy", "cpu": "CPU time", "p50": "p50", "size": "size"}
_MOST_ARMS = 8
_FIRST = 30
"""Columns of a table's first column at most."""
_MOST_COMPARISONS = 2
_MOST_WARNINGS = 4
_TEXT = 320
_ELSEWHERE = re.compile(r"\([^()]*/[^()]*\)|above idle|^Wall time")
_METER = re.compile(r" \([^()]*\)")


def render_terminal(report: Report, width: int = 80, color: bool = False) -> str:
    """Render the summary.

    Args:
        report: The record; nothing else is looked at.
        width: Columns; no line is wider.
        color: Whether to emit ANSI colours. The words alone say everything.

    Returns:
        Lines of text, ending in a newline.
    """
    from rich.console import Console
    from rich.text import Text

    v = view(report)
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    console.print(Text(v.headline, style=f"bold {_STYLES[v.tone]}" if v.tone != "open" else "bold"))
    states = Text()
    for i, chip in enumerate(v.chips):
        states.append("; " if i else "").append(f"{chip.label}: ").append(chip.text, style=_STYLES[chip.tone])
    console.print(states)
    for warning in v.warnings[:_MOST_WARNINGS]:
        console.print(Text(f"! {_cut(warning)}", style="yellow"))
    if len(v.warnings) > _MOST_WARNINGS:
        more = len(v.warnings) - _MOST_WARNINGS
        console.print(Text(f"! and {more} more warning{'s' * (more > 1)} in the report", style="yellow"))
    console.print()
    _arms(console, v.arms, "agreement" if report.task.synthetic else "score")
    meters = len(aggregates.read_meters(report))
    for section in v.comparisons[:_MOST_COMPARISONS]:
        console.print()
        console.print(Text(_cut(section.title), style="bold"))
        for table in section.tables:
            _deltas(console, table, one_meter=meters == 1)
    if len(v.comparisons) > _MOST_COMPARISONS:
        more = len(v.comparisons) - _MOST_COMPARISONS
        console.print(Text(f"and {more} more comparison{'s' * (more > 1)} in the report", style="dim"))
    console.print()
    if v.runtime_alone:
        console.print(Text(_cut(v.runtime_alone)))
    kernels = next(s for s in v.sections if s.key == "kernels")
    told = [row for table in kernels.tables for row in table.rows if row[1].tone == "plain"]
    low = [row for row in told if not row[1].text.startswith("fp32")] or told
    for row in low[:_MOST_ARMS]:
        console.print(Text(_cut(f"Kernels, {row[0].text}: {row[1].text}")))
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1].rstrip()}…"


def _grid(console: Console, heads: tuple[tuple[str, bool], ...], rows: list[list[tuple[str, Tone]]]) -> None:
    """A table of columns two blanks apart; the first gives way first."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, header_style="dim")
    for i, (head, numeric) in enumerate(heads):
        grid.add_column(
            head, justify="right" if numeric else "left", overflow="ellipsis", max_width=_FIRST if i == 0 else None
        )
    for row in rows:
        grid.add_row(*(Text(text, style=_STYLES[tone]) for text, tone in row))
    console.print(grid)


def _arms(console: Console, table: ViewTable, score: str) -> None:
    from rich.cells import cell_len

    picked = [i for key in _ARM_COLUMNS for i, c in enumerate(table.columns) if c.key == key]
    heads = []
    for i in picked:
        column = table.columns[i]
        label = _HEADS.get(column.key, score)
        if column.key == "energy":
            label = f"{label}\n{column.note.split(', ')[0]}"
        elif column.key == "cpu":
            label = f"{label}\nper inference"
        heads.append((label, column.numeric))
    shown = [[row[i] for i in picked] for row in table.rows[:_MOST_ARMS]]
    # Names are cut in their middle, since they differ at their ends.
    others = [(*head.split("\n"), *(row[i].text for row in shown)) for i, (head, _) in enumerate(heads) if i]
    room = console.width - sum(2 + max(map(cell_len, column)) for column in others)
    names = [shorten(row[0].text, max(min(room, _FIRST), 8)) for row in shown]
    rows = [[(name, row[0].tone), *((c.text, c.tone) for c in row[1:])] for name, row in zip(names, shown, strict=True)]
    _grid(console, tuple(heads), rows)
    if (more := len(table.rows) - _MOST_ARMS) > 0:
        console.print(f"and {more} more arm{'s' * (more > 1)} in the report")


def _deltas(console: Console, table: ViewTable, *, one_meter: bool) -> None:
    at = {c.key: i for i, c in enumerate(table.columns)}
    rows = []
    for row in table.rows:
        metric = row[at["metric"]]
        # A meter's domains, what is above idle, and wall time beside CPU time are in the report.
        if _ELSEWHERE.search(metric.text):
            continue
        name = metric.text.replace(" per inference", "").split(" with the original")[0]
        name = _METER.sub("", name) if one_meter else name
        verdict = row[at["verdict"]]
        words = verdict.text.removeprefix("estimated, ") if ", estimated" in name else verdict.text
        change, limit = row[at["change"]], row[at["limit"]]
        bound = limit.text.removeprefix("margin ")
        rows.append([(name, metric.tone), (change.text, change.tone), (bound, limit.tone), (words, verdict.tone)])
    _grid(console, (("", False), ("change [95 %]", False), ("limit", True), ("verdict", False)), rows)

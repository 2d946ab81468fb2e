"""The report as Markdown, for a repository or a pull request."""

from __future__ import annotations

import re

from compressor.report.model import Cell, Column, Section, Table
from compressor.report.view import view
from compressor.results import Report

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#$])")


def render_markdown(report: Report) -> str:
    """Render a report as GitHub-flavoured Markdown.

    Args:
        report: The record; nothing else is looked at.

    Returns:
        The text, ending in a newline. What comes from the record is escaped: it cannot open HTML, links or tables.
    """
    v = view(report)
    out = [f"# {_text(v.title)}", _text(v.subtitle), f"**{_text(v.headline)}**"]
    out.append("\n".join(f"- {_text(chip.label)}: **{_text(chip.text)}**" for chip in v.chips))
    if v.warnings:
        out.append("\n".join(("> **Read this first**", *(f">\n> {_text(w)}" for w in v.warnings))))
    if v.key_figures:
        head = (Column("metric", "Metric"), Column("change", "Change", "95 % interval", numeric=True))
        more = (
            Column("limit", "Limit", numeric=True),
            Column("pair", "Before → after", numeric=True),
            Column("verdict", "Verdict"),
        )
        rows = tuple(
            (
                Cell(k.label),
                Cell(k.value, note=k.interval),
                Cell(k.limit or "exact"),
                Cell(k.before_after),
                Cell(k.verdict),
            )
            for k in v.key_figures
        )
        out += [_text(v.against), _table(Table("", (*head, *more), rows))]
    out += ["## Arms side by side", _text(v.arms.caption), _table(v.arms), "## What made the difference"]
    if v.runtime_alone:
        out.append(_text(v.runtime_alone))
    if not v.comparisons:
        out.append("No arm was compressed, so there is nothing to compare.")
    for section in v.comparisons:
        out += _section(section, "###")
    for section in v.sections:
        out += _section(section, "##")
    out += ["---", _text(v.colophon)]
    return "\n\n".join(part for part in out if part) + "\n"


def _text(text: str) -> str:
    """Escape what Markdown or HTML could take for markup; the view has already put it on one line."""
    escaped = _SPECIAL.sub(r"\\\1", text.replace("&", "&amp;"))
    # A line must not begin as a list, a heading underline or a number with a point.
    return re.sub(r"^(\s*)([-+=]|\d+[.)])(?=\s|$)", r"\1\\\2", escaped).replace("://", ":&#47;&#47;")


def _entry(cell: Cell) -> str:
    if not cell.note:
        return _text(cell.text)
    return (
        f"{_text(cell.text)} {_text(cell.note)}"
        if cell.note.startswith("[")
        else (f"{_text(cell.text)} ({_text(cell.note)})")
    )


def _table(table: Table) -> str:
    heads = [_text(c.label) + (f" ({_text(c.note)})" if c.note else "") for c in table.columns]
    rules = ["---:" if c.numeric else "---" for c in table.columns]
    rows = [[_entry(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rules, *rows))


def _section(section: Section, mark: str) -> list[str]:
    out = [f"{mark} {_text(section.title)}", *(_text(paragraph) for paragraph in section.text)]
    if section.facts:
        out.append("\n".join(f"- {_text(label)}: {_text(value)}" for label, value in section.facts))
    for table in section.tables:
        if len(section.tables) > 1:
            out.append(f"**{_text(table.caption)}**")
        out.append(_table(table))
    if section.code:
        fence = "`" * (max((len(run) for run in re.findall(r"`+", section.code)), default=0) + 3)
        out.append(f"{fence}text\n{section.code}\n{fence}")
    for detail in section.details:
        lines = "\n".join(f"- {_text(line)}" for line in detail.lines)
        out.append(f"<details><summary>{_text(detail.summary)}</summary>\n\n{lines}\n\n</details>")
    return out

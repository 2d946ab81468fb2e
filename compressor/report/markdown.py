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
    out = [f"# {escape(v.title)}", escape(v.subtitle), f"**{escape(v.headline)}**"]
    out.append("\n".join(f"- {escape(chip.label)}: **{escape(chip.text)}**" for chip in v.chips))
    if v.warnings:
        out.append("\n".join(("> **Read this first**", *(f">\n> {escape(w)}" for w in v.warnings))))
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
        out += [escape(v.against), tabulate(Table("", (*head, *more), rows))]
    out += ["## Arms side by side", escape(v.arms.caption), tabulate(v.arms), "## What made the difference"]
    if v.runtime_alone:
        out.append(escape(v.runtime_alone))
    if not v.comparisons:
        out.append("No arm was compressed, so there is nothing to compare.")
    for section in v.comparisons:
        out += _section(section, "###")
    for section in v.sections:
        out += _section(section, "##")
    out += ["---", escape(v.colophon)]
    return "\n\n".join(part for part in out if part) + "\n"


def escape(text: str) -> str:
    """Escape what Markdown or HTML could take for markup; the view has already put it on one line."""
    escaped = _SPECIAL.sub(r"\\\1", text.replace("&", "&amp;"))
    # A line must not begin as a list, a heading underline or a number with a point.
    return re.sub(r"^(\s*)([-+=]|\d+[.)])(?=\s|$)", r"\1\\\2", escaped).replace("://", ":&#47;&#47;")


def _entry(cell: Cell) -> str:
    if not cell.note:
        return escape(cell.text)
    return (
        f"{escape(cell.text)} {escape(cell.note)}"
        if cell.note.startswith("[")
        else (f"{escape(cell.text)} ({escape(cell.note)})")
    )


def tabulate(table: Table) -> str:
    """Lay out a table for GitHub-flavoured Markdown, every cell escaped."""
    heads = [escape(c.label) + (f" ({escape(c.note)})" if c.note else "") for c in table.columns]
    rules = ["---:" if c.numeric else "---" for c in table.columns]
    rows = [[_entry(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rules, *rows))


def _section(section: Section, mark: str) -> list[str]:
    out = [f"{mark} {escape(section.title)}", *(escape(paragraph) for paragraph in section.text)]
    if section.facts:
        out.append("\n".join(f"- {escape(label)}: {escape(value)}" for label, value in section.facts))
    for table in section.tables:
        if len(section.tables) > 1:
            out.append(f"**{escape(table.caption)}**")
        out.append(tabulate(table))
    if section.examples:
        said = (
            f"- {escape(e.title)}: {escape(e.text)}" + (f" ({escape(e.quote)})" if e.quote else "")
            for e in section.examples
        )
        out += ["**Examples that flipped**", "\n".join(said)]
    if section.code:
        fence = "`" * (max((len(run) for run in re.findall(r"`+", section.code)), default=0) + 3)
        out.append(f"{fence}text\n{section.code}\n{fence}")
    for detail in section.details:
        lines = "\n".join(f"- {escape(line)}" for line in detail.lines)
        out.append(f"<details><summary>{escape(detail.summary)}</summary>\n\n{lines}\n\n</details>")
    return out

"""What a report shows, in the order it is shown: plain text in cells, which each renderer only lays out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tone = Literal["plain", "good", "bad", "open", "void", "measured", "estimated"]
"""How a piece is set: a verdict for or against, none (``open``), one that does not count, or where joules come from."""


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        text: What stands there.
        tone: How it is set.
        note: A second line, smaller.
    """

    text: str
    tone: Tone = "plain"
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A column's head.

    Attributes:
        key: By which a renderer picks it.
        label: What it holds.
        note: Its unit or provenance, smaller.
        numeric: Whether to align it to the right.
    """

    key: str
    label: str
    note: str = ""
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its caption.

    Attributes:
        caption: What the table says.
        columns: Their heads.
        rows: One cell per column each; the first names the row.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Detail:
    """A list that is folded up until asked for.

    Attributes:
        summary: What is in it.
        lines: The entries.
    """

    summary: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """A test example with what was said of it.

    Attributes:
        title: Which one.
        text: What it is and what both models say.
        tone: Whether that is for the better.
        picture: A PNG, base64; empty where it is no picture.
        quote: The example itself, where it is text.
    """

    title: str
    text: str
    tone: Tone
    picture: str = ""
    quote: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        key: Short name, unique within the report.
        title: Heading.
        text: Paragraphs.
        tables: The tables.
        facts: Labels with what they say.
        details: Lists folded up.
        code: A command to copy; empty for none.
        figures: Keys of the plots that go with it; those that could not be drawn are left out.
        examples: Test examples to look at.
    """

    key: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    details: tuple[Detail, ...] = ()
    code: str = ""
    figures: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Chip:
    """A few words beside the headline.

    Attributes:
        label: What it is about.
        text: What is so.
        tone: How it is set.
    """

    label: str
    text: str
    tone: Tone


@dataclass(frozen=True)
class KeyFigure:
    """One of the figures on the first screen.

    Attributes:
        label: The metric, with the provenance of joules.
        value: What changed, e.g. ``62 % less``.
        interval: Its 95 % interval or why there is none.
        limit: The detection limit, or the margin of a score; empty for what is exact.
        before_after: Both arms' values.
        verdict: The verdict in words.
        tone: How the verdict is set.
    """

    label: str
    value: str
    interval: str
    limit: str
    before_after: str
    verdict: str
    tone: Tone


@dataclass(frozen=True)
class View:
    """The whole report.

    Attributes:
        title: The model and what was done to it.
        subtitle: Data, machine and date.
        headline: The record's headline, on one line.
        tone: How the headline is set.
        chips: Provenance, verdicts and the A/A control, beside the headline.
        warnings: The record's warnings.
        against: Which arms the key figures compare; empty if there is no comparison.
        key_figures: The figures of the first screen.
        arms: All arms side by side.
        runtime_alone: What the runtime is worth before any compression; empty with one runtime only.
        comparisons: The candidates against each baseline.
        sections: Everything else.
        colophon: Who wrote it and when.
    """

    title: str
    subtitle: str
    headline: str
    tone: Tone
    chips: tuple[Chip, ...]
    warnings: tuple[str, ...]
    against: str
    key_figures: tuple[KeyFigure, ...]
    arms: Table
    runtime_alone: str
    comparisons: tuple[Section, ...]
    sections: tuple[Section, ...]
    colophon: str

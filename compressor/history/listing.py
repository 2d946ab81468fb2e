"""The history as a table for a terminal: 80 columns, one line per model, ten thousand of them in no time."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from compressor.history.database import Entry
from compressor.history.rows import ArmRow, Mean
from compressor.report import numbers
from compressor.report.text import clean, shorten

SHOWN_ID = 7
_MARKS = {"estimated": "~", "replayed": "*"}
_LEGEND = {
    "estimated": "~ estimated, not measured: never ranked among measured joules",
    "replayed": "* replayed from a recording, not measured here",
}
_HEADS = ("ID", "model, method", "task", "score", "inference", "spent", "CO₂e")
_WIDTHS = (SHOWN_ID, 18, 11, 7, 9, 8, 8)
_WIDE = (SHOWN_ID, 24, 15, 7, 9, 8)
_NUMERIC = 3


def listing(entries: Sequence[Entry], more: int = 0) -> Iterator[str]:
    """Lay the list out.

    Args:
        entries: What to list.
        more: How many entries there are beside these.

    Yields:
        Lines of at most 80 columns: the ID, model and method, task, score, energy of an inference, energy spent on
        compressing, carbon of an inference.
    """
    # A column that nobody fills in leaves its room to the names.
    widths = _WIDE if all(entry.arm.carbon_g is None for entry in entries) else _WIDTHS
    yield _line(_HEADS[: len(widths)], widths)
    for entry in entries:
        yield _line(_cells(entry, widths)[: len(widths)], widths)
    marked = {p for e in entries for p in (e.arm.provenance, e.run.compress_provenance) if p in _LEGEND}
    yield from ("", *(_LEGEND[mark] for mark in sorted(marked))) if marked else ()
    if more:
        yield f"… and {numbers.count(more)} more: --limit 0 shows all"


def _cells(entry: Entry, widths: Sequence[int]) -> list[str]:
    run, arm = entry.run, entry.arm
    return [
        run.digest[:SHOWN_ID],
        _named(arm.model, _made(arm), widths[1]),
        _task(run.task, run.synthetic, widths[2]),
        _score(arm, widths[_NUMERIC]),
        _amount(arm.energy_j, "J", arm.provenance),
        _amount(_exact(run.compress_j), "J", run.compress_provenance),
        _amount(_exact(arm.carbon_g), "g CO₂e", arm.provenance).removesuffix(" CO₂e"),
    ]


def _made(arm: ArmRow) -> str:
    """What was done to the model, and how it ran where that is not one example at a time."""
    phase = arm.workload.split(" ")[0]
    return " ".join(part for part in (arm.method, phase, f"b{arm.batch}" if arm.batch > 1 else "") if part)


def _score(arm: ArmRow, width: int) -> str:
    """The score; a unit that its column is too narrow for is left out whole, and so are digits: neither is cut off."""
    if arm.score is None:
        return numbers.NOT_AVAILABLE
    shown = (_amount(arm.score, _unit(arm.score_unit or "")), _amount(arm.score, ""))
    return next((text for text in shown if len(text) <= width), f"{arm.score.value:.1g}")


def _exact(value: float | None) -> Mean | None:
    return None if value is None else Mean(value, None)


def _amount(mean: Mean | None, unit: str, provenance: str | None = None) -> str:
    if mean is None:
        return numbers.NOT_AVAILABLE
    return f"{_MARKS.get(provenance or '', '')}{numbers.quantity(mean.value, unit, mean.ci95)}"


@functools.lru_cache(maxsize=1024)
def _unit(text: str) -> str:
    """The unit of a score, which is the user's own text."""
    return clean(text, 20)


@functools.lru_cache(maxsize=1024)
def _named(model: str, method: str, width: int) -> str:
    """Both names in the column; the method, which is short, is kept whole where it can be."""
    how = shorten(clean(method), 2 * width // 3)
    room = width - len(how) - 1 if how else width
    return f"{shorten(clean(model), room)} {how}".rstrip()


@functools.lru_cache(maxsize=1024)
def _task(name: str, synthetic: bool, width: int) -> str:
    return shorten("(random)" if synthetic else clean(name), width)


@functools.lru_cache(maxsize=4096)
def _fitted(text: str, width: int, right: bool) -> str:
    """The text in exactly so many columns; a Chinese character takes two of them."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) > width:
        text = f"{set_cell_size(text, width - 1).rstrip()}…"
    blank = " " * (width - cell_len(text))
    return f"{blank}{text}" if right else f"{text}{blank}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    parts = (_fitted(cell, width, i >= _NUMERIC) for i, (cell, width) in enumerate(zip(cells, widths, strict=True)))
    return "  ".join(parts).rstrip()

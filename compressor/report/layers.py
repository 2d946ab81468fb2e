"""What low precision costs and brings, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.report import numbers
from compressor.report.canvas import CANDIDATE, FAINT, INK, Figure, draw, plain
from compressor.report.model import Cell, Column, Detail, Section, Table
from compressor.report.text import clean, named, shorten
from compressor.results import Measurement, Report, SensitivityRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = 40
_UNMEASURED = "not measured"


def _measured(report: Report) -> tuple[Measurement, tuple[SensitivityRow, ...]] | None:
    """The candidate (else any arm) whose last measured step looked at its layers, and what it found."""
    order = sorted(report.measurements, key=lambda m: m.role != "candidate")
    for m in order:
        for step in reversed(m.artifact.steps):
            if step.sensitivity:
                return m, step.sensitivity
    return None


def _worst_first(rows: tuple[SensitivityRow, ...]) -> list[SensitivityRow]:
    return sorted(rows, key=lambda row: -(row.error if row.error is not None else -1.0))


def sensitivity_section(report: Report) -> Section | None:
    """Every quantizable layer, the most sensitive first; ``None`` where none was looked at."""
    found = _measured(report)
    if found is None:
        return None
    arm, all_rows = found
    rows = _worst_first(all_rows)
    columns: tuple[Column, ...] = (
        Column("layer", "Layer"),
        Column("op", "Operator"),
        Column("error", "Output moves by", "norm over norm, this layer alone", numeric=True),
        Column("time", "Time of the graph", "its group in low precision, fp32 = 1", numeric=True),
        Column("kept", "In the result"),
    )
    cells = tuple(_row(row) for row in rows)
    # A column that nobody filled in says nothing.
    told = [any(cell.text != _UNMEASURED for cell in column) for column in zip(*cells, strict=True)]
    columns = tuple(column for column, kept in zip(columns, told, strict=True) if kept)
    cells = tuple(tuple(cell for cell, kept in zip(row, told, strict=True) if kept) for row in cells)
    low = sum(row.kept for row in rows)
    text = (
        f"{named(arm.arm)}: {low} of {len(rows)} quantizable layers are in low precision. A time below 1 means "
        "that quantizing the layer's group pays on this machine. Measured once while compressing, so without an "
        "interval.",
    )
    head = Table(f"Sensitivity by layer, the most sensitive first ({len(rows)})", columns, cells[:_SHOWN])
    lines = tuple(", ".join(f"{c.label}: {cell.text}" for c, cell in zip(columns, row, strict=True)) for row in cells)
    details = (Detail(f"The other {len(rows) - _SHOWN} layers", lines[_SHOWN:]),) if len(rows) > _SHOWN else ()
    return Section("sensitivity", "Sensitivity", text, tables=(head,), details=details, figures=("sensitivity",))


def _row(row: SensitivityRow) -> tuple[Cell, ...]:
    error, ratio = row.error, row.time_ratio
    slower = ratio is not None and ratio >= 1
    return (
        Cell(clean(row.layer, 80)),
        Cell(clean(row.op, 40)),
        Cell(_UNMEASURED, "open") if error is None else Cell(numbers.small(error)),
        Cell(_UNMEASURED, "open") if ratio is None else Cell(f"{ratio:.2f}", "bad" if slower else "plain"),
        Cell("low precision" if row.kept else "fp32", "plain" if row.kept else "open"),
    )


def sensitivity_figure(report: Report) -> Figure | None:
    """Damage against gain, one mark per layer."""
    found = _measured(report)
    if found is None:
        return None
    drawn = [row for row in found[1] if row.error is not None and row.error > 0]
    if len(drawn) < 2:
        return None
    timed = [(row.time_ratio, row.error, row.kept) for row in drawn if row.time_ratio is not None and row.error]
    title = "Sensitivity by layer: how far the output moves against the time"
    worst = _worst_first(tuple(drawn))
    listed = "; ".join(f"{clean(row.layer, 60)}: {numbers.small(row.error or 0)}" for row in worst[:12])

    def scatter(axes: Axes) -> None:
        for kept in (True, False):
            rows = [row for row in timed if row[2] == kept]
            axes.plot(
                [row[0] for row in rows],
                [row[1] for row in rows],
                ls="",
                marker="s" if kept else "o",
                ms=6,
                color=CANDIDATE if kept else FAINT,
                mfc=CANDIDATE if kept else "none",
                alpha=0.85,
            )
        axes.axvline(1, color=INK, lw=1)
        axes.set_yscale("log")
        axes.set_xlabel("time of the graph with the layer's group in low precision, fp32 = 1")
        axes.set_ylabel("output moves by (norm over norm)")

    def bars(axes: Axes) -> None:
        rows = worst[:_SHOWN]
        colours = [CANDIDATE if row.kept else FAINT for row in rows]
        axes.barh(range(len(rows)), [row.error or 0 for row in rows], height=0.62, color=colours)
        axes.set_yticks(range(len(rows)), [plain(shorten(clean(row.layer), 30)) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("output moves by (norm over norm), this layer alone in low precision")

    if len(timed) == len(drawn) and len({row[0] for row in timed}) > 2:
        svg = draw("sensitivity", title, listed, 3.5, scatter)
        caption = (
            "One mark per layer: how far the model's output moves when it alone is in low precision, against what its "
            "group does to the time. Squares are in low precision in the result, circles stay in fp32."
        )
    else:
        svg = draw("sensitivity", title, listed, 0.9 + 0.22 * max(min(len(worst), _SHOWN), 4), bars)
        caption = "How far the output moves when one layer alone is in low precision; blue ones are in the result."
    return Figure(svg, caption)

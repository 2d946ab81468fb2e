"""What the command line prints: tables and progress bars, 80 columns wide."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from compressor.report.text import clean
from compressor.results import MeterStatus

if TYPE_CHECKING:
    from compressor.model.describe import Description
    from compressor.pipeline import Outcome

WIDTH = 80
_STAGES = {
    "export": "load and export to ONNX",
    "score": "score the original",
    "measure": "measure side by side",
}


def console(*, stderr: bool = False) -> Console:
    """A console at most 80 columns wide; rich itself respects ``NO_COLOR`` and plain pipes."""
    found = Console(stderr=stderr, highlight=False)
    found.width = min(found.width, WIDTH)
    return found


class Bars:
    """A progress line per stage on standard error; silent when it is not a terminal.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, quiet: bool) -> None:
        self._bars = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=False),
            console=console(stderr=True),
            disable=quiet,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *failure: object) -> None:
        if failure[0] is None:
            self._finish()
        self._bars.stop()

    def stage(self, name: str, resumed: bool) -> None:
        """Finish the line of the stage before, begin this one's."""
        self._finish()
        text = _STAGES.get(name, name) + (" (done before)" if resumed else "")
        self._task = self._bars.add_task(f"{text:32}", total=1 if resumed else None)

    def progress(self, done_s: float, total_s: float, text: str) -> None:
        """Move the bar of the measurement."""
        if self._task is not None:
            self._bars.update(self._task, completed=done_s, total=total_s, description=f"{clean(text, 32):32}")

    def _finish(self) -> None:
        if self._task is not None:
            self._bars.update(self._task, total=1, completed=1)


def print_outcome(outcome: Outcome) -> None:
    """Print the report's summary and where its files are."""
    from compressor.report.terminal import render_terminal

    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(render_terminal(outcome.report, WIDTH, color))
    folder = outcome.folder
    print(f"Compressed model  {_short(folder / 'model.onnx')}")
    print(f"Report            {_short(folder / 'report.html')}  (also .md, .json)")


def print_description(description: Description) -> None:
    """Print what ``compress inspect`` found."""
    out = console()
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    rows = {
        "file": clean(str(description.path)),
        "content": description.kind,
        "size": f"{description.size_bytes:,} bytes".replace(",", " "),
        "sha256": description.sha256,
        "parameters": "unknown" if description.parameters is None else f"{description.parameters:,}".replace(",", " "),
    }
    for spec in description.inputs:
        rows[f"input {clean(spec.name, 20)}"] = f"{spec.dtype} {_shape(spec.shape)}"
    for key, value in rows.items():
        table.add_row(key, escape(value), style=None)
    out.print(table)
    if description.layers:
        layers = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name, justify in (("layer", "left"), ("type", "left"), ("weight", "left"), ("parameters", "right")):
            layers.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for layer in description.layers:
            shape = _shape(layer.shape) if layer.shape is not None else ""
            layers.add_row(escape(clean(layer.name, 60)), escape(layer.type), shape, f"{layer.parameters:,}")
        out.print()
        out.print(layers)


def print_meters(statuses: tuple[MeterStatus, ...]) -> None:
    """Print ``compress meters``: the table, then for each that cannot be read why and what would mend it."""
    out = console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("meter", "here", "joules are", "scope", "period", "step", "domains"):
        table.add_column(name, overflow="fold")
    for status in statuses:
        info = status.info
        if info is None:
            table.add_row(status.name, "no", "", "", "", "", "")
            continue
        period = f"{info.update_period_s * 1e3:.3g} ms" if info.update_period_s else "–"
        step = f"{info.resolution_j:.2g} J" if info.resolution_j else "–"
        here = "yes" if status.usable else "no"
        table.add_row(status.name, here, info.provenance, info.scope, period, step, ", ".join(info.domains))
    out.print(table)
    for status in statuses:
        if status.usable:
            if status.info is not None:
                out.print(f"\n[bold]{status.name}[/]: {escape(status.info.source)}")
            continue
        out.print(f"\n[bold]{status.name}[/]: {escape(status.why.removeprefix(f'{status.name}: '))}")
        for line in status.mend.splitlines():
            out.print(f"  {escape(line)}", soft_wrap=True)


def _shape(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("free" if size is None else str(size) for size in shape) + ")"


def _short(path: object) -> str:
    """A path as the user would type it: relative where that is shorter."""
    text = str(path)
    relative = os.path.relpath(text)
    return relative if len(relative) < len(text) else text

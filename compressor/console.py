"""What the command line prints: tables and progress bars, 80 columns wide."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from compressor.report.text import clean, shorten
from compressor.results import (
    BenchRecord,
    BenchRun,
    Comparison,
    Control,
    Measurement,
    MeterStatus,
    Plan,
    Quantity,
    Score,
)

if TYPE_CHECKING:
    from compressor.across import Across
    from compressor.meters.watch import Power
    from compressor.model.describe import Description
    from compressor.pipeline import Outcome
    from compressor.streaming.score import Scores
    from compressor.streaming.write import Streamed

WIDTH = 80
_NAME = 28
_STAGES = {
    "export": "load and export to ONNX",
    "score": "score the original",
    "measure": "measure side by side",
}


def console(*, stderr: bool = False) -> Console:
    """A console at most 80 columns wide; rich itself respects ``NO_COLOR`` and plain pipes."""
    # Bound to the stream of now: while torch exports, sys.stderr is another one.
    found = Console(file=sys.stderr if stderr else None, highlight=False)
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
    made = next(m.artifact.path for m in outcome.report.measurements if m.role == "candidate")
    print(f"Compressed model  {_short(folder / made)}")
    print(f"Report            {_short(folder / 'report.html')}  (also .md, .json)")


def print_bench(record: BenchRecord) -> None:
    """Print what ``compress bench`` found: per batch size and threads every arm, then each against the first."""
    out = console()
    for index, run in enumerate(record.runs):
        plan = run.measurements[0].plan
        if index:
            out.print()
        unit = "token" if plan.workload else "inference"
        threads = f"{plan.threads} thread{'s' * (plan.threads > 1)}"
        out.print(f"[bold]{_workload(plan)}batch {plan.batch}, {threads}, per {unit}[/]")
        _print_arms(out, run)
        for comparison in run.comparisons:
            out.print(f"\n{escape(_arm(comparison.candidate))} against {escape(_arm(comparison.baseline))}")
            _print_deltas(out, comparison, run.control)
        out.print()
        scores = [(one.arm, one.score) for one in run.measurements if one.score is not None and one.role != "control"]
        if scores:
            shown = (f"{_arm(name)} {_score(score)}" for name, score in scores)
            out.print(f"{scores[0][1].name}: {escape('; '.join(shown))}")
        limits = [c for c in run.control if c.detection_limit is not None]
        if not run.comparisons and limits:
            shown = (f"{c.metric} {_limit(c)}" for c in limits)
            out.print(f"Detection limit (A/A control): {escape('; '.join(shown))}")
        for warning in run.warnings:
            out.print(f"! {escape(clean(warning, 400))}")
    if record.interrupted:
        out.print("! Interrupted: what is shown is what was finished.")


def _workload(plan: Plan) -> str:
    work = plan.workload
    if work is None:
        return ""
    if work.phase == "prefill":
        return f"prefill of {work.prompt_tokens} tokens, "
    return f"decode of {work.new_tokens} tokens behind {work.prompt_tokens}, "


def print_across(across: Across) -> None:
    """Print what ``compress compare`` found."""
    out = console()
    for pair in across.pairs:
        found = pair.comparison
        out.print(
            f"[bold]{escape(_arm(found.candidate))} (second file) against {escape(_arm(found.baseline))} (first file), "
            f"{pair.size}[/]"
        )
        _print_deltas(out, found, pair.control)
        for note in pair.notes:
            out.print(f"! {escape(clean(note, 400))}")
        out.print()
    for note in across.notes:
        out.print(f"! {escape(clean(note, 400))}")
    if across.gate is not None:
        out.print(f"{across.gate.wish}: {'met' if across.gate.met else 'NOT met'}")
        for reason in across.gate.reasons:
            out.print(f"  {escape(reason)}")


def power_line(powers: Sequence[Power], as_json: bool) -> str:
    """One line of ``compress meters --watch``; what is estimated says so, what could not be read says why."""
    now = datetime.now(UTC)
    if as_json:
        stamp = now.isoformat(timespec="milliseconds")
        return json.dumps({"time_utc": stamp, "powers": [asdict(power) for power in powers]})
    parts = []
    for power in powers:
        if power.watts is None:
            parts.append(f"{power.domain} – ({power.why.removeprefix(f'{power.domain}: ')})")
        else:
            mark = {"estimated": " (estimated, all processes)", "replayed": " (replayed)"}.get(power.provenance, "")
            parts.append(f"{power.domain} {power.watts:.2f} W{mark}")
    return f"{now.astimezone():%H:%M:%S}  {'  '.join(parts)}"


def _print_arms(out: Console, run: BenchRun) -> None:
    from compressor import compare
    from compressor.report import numbers

    def shown(quantity: Quantity | None) -> str:
        return numbers.NOT_AVAILABLE if quantity is None else numbers.quantity(*_plain(quantity))

    meters = [(m.name, m.provenance) for m in run.measurements[0].meters]
    heads = [
        "arm",
        "time",
        "CPU time",
        *(f"energy\n{name}\n{provenance}" for name, provenance in meters),
        "p50",
        "size",
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    rows = []
    for one in run.measurements:
        found = compare.quantities(one)
        energy = [shown(found.get(compare.energy_metric(name))) for name, _ in meters]
        size = numbers.quantity(one.artifact.size_bytes, "B")
        times = [shown(found.get(compare.WALL_TIME)), shown(found.get(compare.CPU_TIME))]
        rows.append((clean(one.arm), *times, *energy, _p50(one), size))
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left", overflow="ellipsis", no_wrap=True)
    # Names give way, figures do not.
    columns = zip(*(row[1:] for row in rows), strict=True)
    parts = [(*head.split("\n"), *cells) for head, cells in zip(heads[1:], columns, strict=True)]
    room = out.width - sum(2 + max(map(len, part)) for part in parts)
    for name, *cells in rows:
        table.add_row(escape(shorten(name, max(min(room, _NAME), 8))), *cells)
    out.print(table)


def _print_deltas(out: Console, comparison: Comparison, controls: Sequence[Control]) -> None:
    from compressor import compare
    from compressor.report import aggregates, numbers

    limits = {c.metric: c for c in controls}
    reasons: dict[str, list[str]] = {}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i, head in enumerate(("", "change [95 %]", "limit", "verdict")):
        table.add_column(head, overflow="fold", no_wrap=bool(i))
    for delta in comparison.deltas:
        # a meter's single domains and what is above idle are in the file
        if delta.metric.startswith(compare.ABOVE_IDLE) or "/" in delta.metric:
            continue
        name = delta.metric.replace(" per inference", "")
        provenance = delta.baseline.provenance
        name += f", {provenance}" if provenance else ""
        change = numbers.change(delta.ratio, delta.ci95)
        exact = aggregates.is_exact(delta)
        limit = "exact" if exact else _limit(limits.get(delta.metric))
        # The words of the report: what can have no verdict says so, and what is equal to the byte is not open.
        estimated = "estimated" in aggregates.sources(delta)
        same = exact and delta.ratio == 1
        verdict = "no verdict" if estimated else "no change" if same else delta.verdict
        table.add_row(escape(name), escape(change), limit, verdict)
        if delta.reason and not same:
            reasons.setdefault(delta.reason, []).append(name.split(",")[0])
    score = comparison.score
    if score is not None:
        lost = numbers.loss(score.loss, score.unit, score.ci95)
        margin = numbers.margin(score.max_loss, score.unit)
        table.add_row(escape(score.metric), escape(lost), margin, score.verdict)
    out.print(table)
    for reason, metrics in reasons.items():
        out.print(f"  {escape(', '.join(metrics))}: {escape(reason)}")


def _limit(control: Control | None) -> str:
    from compressor.report import numbers

    if control is None or control.detection_limit is None:
        return ""
    return f"±{numbers.percent(control.detection_limit)}" if control.passed else "void"


def _plain(quantity: Quantity) -> tuple[float, str, tuple[float, float] | None]:
    return quantity.value, quantity.unit, quantity.ci95


def _p50(one: Measurement) -> str:
    from compressor.report import numbers

    return numbers.NOT_AVAILABLE if one.latency is None else numbers.quantity(one.latency.p50_s, "s")


def _score(score: Score) -> str:
    from compressor.report import numbers

    return numbers.quantity(score.value, score.unit)


def _arm(name: str) -> str:
    return shorten(clean(name), _NAME)


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


def print_streamed(found: Streamed, scores: Scores | None) -> None:
    """Print what ``compress stream`` wrote, and what was kept of the original."""
    from compressor.report import numbers

    out = console()
    before, after = (numbers.quantity(size, "B") for size in (found.original_bytes, found.size_bytes))
    files = f"{len(found.files)} file{'s' * (len(found.files) > 1)}"
    out.print(f"{before} → {after} in {files}, {found.elapsed_s:.3g} s")
    for note in found.notes:
        out.print(escape(clean(note, 400)))
    if found.resumed:
        out.print(f"{found.resumed} of {found.tensors} tensors were finished before.")
    if scores is not None:
        delta = scores.perplexity
        change = "" if delta.ci95 is None else f", change [{delta.ci95[0]:+.3g}, {delta.ci95[1]:+.3g}]"
        out.print(f"perplexity {delta.baseline:.4g} → {delta.candidate:.4g}{change}")
        out.print(f"next-token agreement {numbers.quantity(scores.agreement.value, scores.agreement.unit)}")
        out.print(f"({escape(clean(scores.text, 400))})")
    out.print(f"Quantized checkpoint  {_short(found.folder)}")


def _short(path: object) -> str:
    """A path as the user would type it: relative where that is shorter."""
    text = str(path)
    relative = os.path.relpath(text)
    return relative if len(relative) < len(text) else text

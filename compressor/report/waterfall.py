"""The waterfall: what the runtime and each stage of the compression did to cost, score, size, parameters and FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from compressor.report import aggregates, numbers
from compressor.report.background import kernel_text
from compressor.report.canvas import BAD, BASELINE, CANDIDATE, FAINT, GOOD, INK, Figure, axis_unit, draw, plain
from compressor.report.model import Cell, Column, Section, Table
from compressor.report.text import clean, named, shorten
from compressor.results import Measurement, Quantity, Report, Trial
from compressor.stats import ratio_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Kind = Literal["start", "runtime", "compression", "undone"]
_NAME = 60


@dataclass(frozen=True)
class Link:
    """One step of the waterfall.

    Attributes:
        measurement: The arm that the step led to.
        kind: What made the difference to the arm before; an ``undone`` stage broke the margin and is not in the result.
        label: What was done.
        cost: The arm's own cost per inference; ``None`` where it was not measured.
        ratio: Cost of this arm over that of the one before, paired by block; ``None`` for the first.
    """

    measurement: Measurement
    kind: Kind
    label: str
    cost: Quantity | None
    ratio: Quantity | None


def _cost(report: Report) -> tuple[str, Callable[[Trial], float | None], Callable[[Measurement], Quantity | None]]:
    """What the waterfall is drawn in: measured joules where all have them, CPU time else."""
    meter = aggregates.measured_meter(report)
    if meter is None:
        return (
            aggregates.time_name(report),
            aggregates.trial_time(report),
            lambda m: aggregates.time_cost(report, m).quantity,
        )
    joules = aggregates.joules_of(meter)
    return (
        f"energy per inference, {meter.provenance} ({clean(meter.name, 20)})",
        lambda t: aggregates.per(joules(t), t.inferences),
        lambda m: aggregates.energy(report, m, meter).quantity,
    )


def links(report: Report) -> tuple[str, tuple[Link, ...]]:
    """The steps from the first baseline to the result.

    Args:
        report: The record.

    Returns:
        What the cost is, and the steps; none if nothing was compressed or the chain's baseline is not among the arms.
    """
    label, of, quantity = _cost(report)
    if not report.comparisons:
        return label, ()
    result = aggregates.arm(report, report.comparisons[0].candidate)
    if result is None:
        return label, ()
    same = [m for m in report.measurements if m.role == "baseline" and m.runtime.name == result.runtime.name]
    # A model that came from PyTorch and still runs there has changed no runtime.
    stays = result.artifact.format != "onnx"
    others = [m for m in report.measurements if m.role == "baseline" and m.runtime.name != result.runtime.name]
    other = [] if stays else others
    if not same:
        return label, ()
    stages = [m for m in report.measurements if m.role == "stage" and m.runtime.name == result.runtime.name]
    arms = [*other[:1], same[0], *_ordered([*stages, result])]
    reached, found = True, []
    before: Measurement | None = None
    for m in arms:
        kind: Kind = "start" if before is None else "compression"
        if m is same[0] and other:
            kind = "runtime"
        elif not reached:
            kind = "undone"
        # Every stage of the PyTorch model ends with an export, which is none of the methods asked for.
        methods = [step.method for step in m.artifact.steps if step.method != "export"]
        what = m.arm if m.role == "baseline" or not methods else methods[-1]
        ratio = None if before is None else _ratio(before, m, of)
        found.append(Link(m, kind, named(what), quantity(m), ratio))
        if m is result:
            reached = False
        before = m
    return label, tuple(found)


def _ordered(arms: list[Measurement]) -> list[Measurement]:
    """Stages as they were applied: each one's steps begin with those of the stage before."""
    return sorted(arms, key=lambda m: len(m.artifact.steps))


def _ratio(before: Measurement, after: Measurement, of: Callable[[Trial], float | None]) -> Quantity | None:
    others = {t.block: of(t) for t in after.trials}
    pairs = [(of(t), others[t.block]) for t in before.trials if t.block in others]
    sound = [(b, c) for b, c in pairs if b is not None and c is not None and b > 0 and c > 0]
    if not sound or len(sound) < len(pairs):
        return None
    value, interval = ratio_interval([b for b, _ in sound], [c for _, c in sound])
    return Quantity(value, "", interval)


_DONE: dict[Kind, str] = {
    "start": "start",
    "runtime": "runtime, nothing compressed",
    "compression": "compression",
    "undone": "undone: broke the margin",
}


def waterfall_section(report: Report) -> Section | None:
    """The steps as a table; ``None`` where there are none."""
    label, steps = links(report)
    if not steps:
        return None
    columns = (
        Column("stage", "Stage"),
        Column("kind", "Gain of"),
        Column("cost", label[:1].upper() + label[1:].split(",")[0], numeric=True),
        Column("change", "Against the stage before", "95 % interval", numeric=True),
        Column("score", "Score", numeric=True),
        Column("size", "File size", numeric=True),
        Column("parameters", "Parameters", numeric=True),
        Column("flops", "FLOPs", "per inference, 2 per MAC", numeric=True),
        Column("kernels", "Kernels"),
    )
    rows = tuple(_row(link) for link in steps)
    void = aggregates.void(report, aggregates.cost_metric(report))
    text = ["Each stage against the one before it, in the same blocks. What the runtime is worth is no compression."]
    if void:
        text.insert(0, "The A/A control failed: these differences are not established.")
    if aggregates.measured_meter(report) is None:
        kind = aggregates.time_name(report).removesuffix(" per inference")
        real = any(meter.provenance != "estimated" for meter in aggregates.read_meters(report))
        where = " comparably in every arm" if real else ""
        text.append(f"Energy was not measured{where}, so this is {kind}.")
    undone = [link.label for link in steps if link.kind == "undone"]
    if undone:
        text.append(f"Undone, and not in the result: {', '.join(undone)}.")
    table = Table(f"Waterfall by stage, in {label}", columns, rows)
    return Section("waterfall", "What each stage did", tuple(text), tables=(table,), figures=("waterfall",))


def _row(link: Link) -> tuple[Cell, ...]:
    m = link.measurement
    cost, interval = ("not measured", "")
    if link.cost is not None:
        cost, interval = numbers.apart(numbers.with_interval(link.cost.value, link.cost.unit, link.cost.ci95))
    score = m.score
    artifact = m.artifact
    parameters = artifact.parameters
    return (
        Cell(link.label, note=named(m.arm) if named(m.arm) != link.label else ""),
        Cell(_DONE[link.kind], "bad" if link.kind == "undone" else "plain"),
        Cell(cost, "plain" if link.cost else "open", interval),
        Cell(numbers.NOT_AVAILABLE) if link.ratio is None else _change(link.ratio),
        Cell("no task", "open") if score is None else Cell(aggregates.score_text(score)),
        Cell(numbers.quantity(artifact.size_bytes, "B")),
        Cell("not told", "open") if parameters is None else Cell(numbers.count(parameters)),
        Cell("not counted", "open") if artifact.macs is None else Cell(numbers.quantity(2 * artifact.macs, "FLOP")),
        Cell("not told by the runtime", "open") if m.kernels is None else Cell(kernel_text(m.kernels)),
    )


def _change(ratio: Quantity) -> Cell:
    text, interval = numbers.apart(numbers.change(ratio.value, ratio.ci95))
    return Cell(text, note=interval)


def waterfall_figure(report: Report) -> Figure | None:
    """Bars that hang from the stage before."""
    label, steps = links(report)
    drawn = [(link, link.cost) for link in steps if link.cost is not None]
    if len(drawn) < 2:
        return None
    scale, unit = axis_unit([q.value for _, q in drawn], drawn[0][1].unit)
    title = f"Waterfall by stage: {label}"
    listed = "; ".join(
        f"{link.label} ({_DONE[link.kind]}): {numbers.with_interval(q.value, q.unit, q.ci95)}" for link, q in drawn
    )

    def paint(axes: Axes) -> None:
        last = 0.0
        top = max(q.value for _, q in drawn) / scale
        for i, (link, q) in enumerate(drawn):
            value = q.value / scale
            start = link.kind == "start"
            colour = BASELINE if start else FAINT if link.kind in ("runtime", "undone") else GOOD
            if not start and value > last and link.kind != "undone":
                colour = BAD
            left, right = (0.0, value) if start else (min(last, value), max(last, value))
            hatch = {"runtime": "///", "undone": "xxx"}.get(link.kind)
            fill = "none" if hatch else colour
            axes.barh(i, right - left, left=left, height=0.55, color=fill, edgecolor=colour, hatch=hatch, lw=0.8)
            axes.plot([value, value], [i - 0.275, i + 0.275], color=CANDIDATE if not start else INK, lw=2.2)
            if i + 1 < len(drawn):
                axes.plot([value, value], [i + 0.275, i + 0.725], color=FAINT, lw=0.8)
            text = numbers.quantity(q.value, q.unit, q.ci95)
            if link.ratio is not None:
                text += f"\n{numbers.apart(numbers.change(link.ratio.value, link.ratio.ci95))[0]}"
            axes.annotate(plain(text), (right, i), xytext=(6, 0), textcoords="offset points", va="center")
            last = value
        axes.set_yticks(range(len(drawn)), [plain(shorten(link.label, 24)) for link, _ in drawn])
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlim(0, top * 1.4)
        axes.set_xlabel(plain(f"{label}, {unit}"))

    svg = draw("waterfall", title, listed, 0.9 + 0.42 * max(len(drawn), 2), paint)
    caption = (
        "From the model as it came to the result; the thick line is where each stage ends. Hatched: what the runtime "
        "alone is worth (///) and stages that were undone (xxx). Filled: compression."
    )
    return Figure(svg, caption)

"""The report's plots; arms are told apart by position, marker and name, never by colour alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.report import aggregates, comparing, numbers
from compressor.report.canvas import (
    BAD,
    BASELINE,
    CANDIDATE,
    FAINT,
    GOOD,
    INK,
    Figure,
    Label,
    axis_unit,
    draw,
    label_points,
    plain,
)
from compressor.report.layers import sensitivity_figure
from compressor.report.lifecycle import lifecycle_figure
from compressor.report.moved import moved_figure
from compressor.report.power import power_figure
from compressor.report.text import clean, named, shorten
from compressor.report.waterfall import waterfall_figure
from compressor.results import Comparison, Delta, Measurement, Report, Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"baseline": BASELINE, "control": FAINT, "stage": CANDIDATE, "candidate": CANDIDATE}
_MARKERS = {"baseline": "o", "control": "D", "stage": "v", "candidate": "s"}
_NAME = 24
_LABELLED = 8
_REACH = 3
"""How many times the spread of the lasting arms' scores a stage's may lie outside of it and still be on the axis."""
_ROWS = 40


def figures(report: Report) -> dict[str, Figure]:
    """Draw what the report's data allow.

    Args:
        report: The record.

    Returns:
        One figure per key that has data; the sections of :mod:`compressor.report.view` name theirs.
    """
    drawers: dict[str, Callable[[Report], Figure | None]] = {
        "cost": _cost,
        "ratios": _ratios,
        "latency": _latency,
        "size": _size,
        "waterfall": waterfall_figure,
        "power": power_figure,
        "moved": moved_figure,
        "sensitivity": sensitivity_figure,
        "life": lifecycle_figure,
    }
    return {key: figure for key, drawer in drawers.items() if (figure := drawer(report)) is not None}


def _name(text: str) -> str:
    return plain(shorten(clean(text), _NAME))


@dataclass(frozen=True)
class _Point:
    name: str
    role: str
    value: float
    interval: tuple[float, float] | None


def _points(report: Report) -> tuple[list[_Point], str, str]:
    """What an inference costs in each arm: measured joules where every arm has them, else CPU time for all of them."""
    meter = aggregates.measured_meter(report)
    points = []
    # A twin would only hide the arm whose file it runs.
    for m in (m for m in report.measurements if m.role != "control"):
        amount = aggregates.time_cost(report, m) if meter is None else aggregates.energy(report, m, meter)
        if (q := amount.quantity) is not None:
            points.append(_Point(m.arm, m.role, q.value, q.ci95))
    if meter is None:
        return points, aggregates.time_name(report), "s"
    return points, f"energy per inference, {meter.provenance} ({clean(meter.name, 20)})", "J"


def pareto(points: Sequence[tuple[float, float]], *, higher_is_better: bool) -> list[int]:
    """Which points no other beats in both cost and score.

    Args:
        points: Cost and score of each.
        higher_is_better: Direction of the score; a smaller cost is always better.

    Returns:
        Their indices by rising cost.
    """
    sign = 1 if higher_is_better else -1
    front: list[int] = []
    best = -math.inf
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1])):
        if sign * points[i][1] > best:
            front.append(i)
            best = sign * points[i][1]
    return front


def _cost(report: Report) -> Figure | None:
    """Score against the cost of an inference, or the cost alone where there is no score."""
    points, label, unit = _points(report)
    if not points:
        return None
    scale, shown_unit = axis_unit([p.value for p in points], unit)
    scores = {m.arm: m.score for m in report.measurements if m.score is not None}
    axis = f"{label}, {shown_unit}"
    listed = "; ".join(f"{clean(p.name, 60)} {numbers.with_interval(p.value, unit, p.interval)}" for p in points[:12])
    if any(p.name not in scores for p in points):
        rows = [(p.name, p.role, p.value / scale, _scaled(p.interval, scale)) for p in points[:_ROWS]]
        title = label[:1].upper() + label[1:]
        svg = draw("cost", title, listed, _height(len(rows)), lambda axes: _dots(axes, rows, axis))
        return Figure(svg, f"{title} of each arm, with 95 % intervals. Further left is cheaper.")
    score_name = comparing.score_label(report)
    title = f"{score_name} against {label}"

    higher = scores[points[0].name].higher_is_better
    bottom, top = _score_range(points, scores)
    beyond = [p for p in points if not bottom <= scores[p.name].value <= top]
    front = pareto([(p.value, scores[p.name].value) for p in points], higher_is_better=higher)

    def paint(axes: Axes) -> None:
        percent = scores[points[0].name].unit == "fraction"
        factor = 100.0 if percent else 1.0
        at = [(points[i].value / scale, scores[points[i].name].value * factor) for i in front]
        axes.step(*zip(*at, strict=True), where="post", color=FAINT, lw=1.2, ls="--", zorder=1)
        for p in points:
            score = scores[p.name]
            spread = None if p in beyond else aggregates.score_interval(score)
            x, y = p.value / scale, min(max(score.value, bottom), top) * factor
            across = _bars(x, _scaled(p.interval, scale))
            up = _bars(y, None if spread is None else (spread[0] * factor, spread[1] * factor))
            marker = _MARKERS[p.role] if p not in beyond else "v" if higher else "^"
            drawn = axes.errorbar(
                x, y, up, across, color=_COLOURS[p.role], marker=marker, ms=7, lw=0, elinewidth=1.4, clip_on=False
            )
            drawn[0].set_markerfacecolor("none" if p in beyond else _COLOURS[p.role])
        axes.set_xlim(left=0)
        axes.set_ylim(bottom * factor, top * factor)
        axes.set_xlabel(plain(axis))
        unit_shown = "%" if percent else clean(scores[points[0].name].unit, 20)
        axes.set_ylabel(plain(shorten(score_name, 40) + (f", {unit_shown}" if unit_shown else "")))
        names = []
        for p in points if len(points) <= _LABELLED else []:
            score, ends = scores[p.name], aggregates.score_interval(scores[p.name])
            said = f" at {aggregates.score_text(score)}" if p in beyond else ""
            y = min(max(score.value, bottom), top) * factor
            bar = None if ends is None or p in beyond else (ends[0] * factor, ends[1] * factor)
            colour = CANDIDATE if p.role == "candidate" else INK
            names.append(Label(f"{_name(p.name)}{plain(said)}", p.value / scale, y, colour, bar))
        label_points(axes, names)

    better = "up" if higher else "down"
    caption = f"{title}; 95 % intervals of both. Better is {better} and to the left. " + (
        "Dashed: the Pareto front, the arms that no other beats in both, by their means."
        if len(front) > 1
        else f"By their means no other arm is cheaper or better than {shorten(clean(points[front[0]].name), _NAME)}."
    )
    if beyond:
        caption += " Hollow, at the edge: off the scale."
    if len(points) > _LABELLED:
        caption += " Squares are results, triangles stages, circles baselines; their names are in the table."
    return Figure(draw("cost", title, listed, 3.5, paint), caption)


def _score_range(points: Sequence[_Point], scores: Mapping[str, Score]) -> tuple[float, float]:
    """Ends of the score's axis: room for all arms, but a stage that broke the model must not press the others flat."""

    def ends(p: _Point) -> tuple[float, float]:
        value = scores[p.name].value
        return aggregates.score_interval(scores[p.name]) or (value, value)

    lasting = [ends(p) for p in points if p.role != "stage"] or [ends(p) for p in points]
    low, high = min(end[0] for end in lasting), max(end[1] for end in lasting)
    reach = _REACH * (high - low or 0.02 * abs(high) or 1.0)
    near = [ends(p) for p in points if low - reach <= scores[p.name].value <= high + reach]
    low, high = min(end[0] for end in near), max(end[1] for end in near)
    room = 0.18 * (high - low or 0.02 * abs(high) or 1.0)
    return low - room, high + room


def _scaled(interval: tuple[float, float] | None, scale: float) -> tuple[float, float] | None:
    return None if interval is None else (interval[0] / scale, interval[1] / scale)


def _bars(value: float, interval: tuple[float, float] | None) -> list[list[float]] | None:
    """Distances to both ends, as matplotlib wants them."""
    return None if interval is None else [[max(value - interval[0], 0.0)], [max(interval[1] - value, 0.0)]]


def _height(rows: int) -> float:
    return 0.9 + 0.34 * max(rows, 2)


def _names(axes: Axes, names: Sequence[str]) -> None:
    """Rows from the top, named at the left."""
    axes.set_yticks(range(len(names)), [_name(n) for n in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


_Row = tuple[str, str, float, tuple[float, float] | None]


def _dots(axes: Axes, rows: Sequence[_Row], label: str) -> None:
    for i, (_, role, value, interval) in enumerate(rows):
        axes.errorbar(
            value,
            i,
            None,
            _bars(value, interval),
            color=_COLOURS[role],
            marker=_MARKERS[role],
            ms=7,
            lw=0,
            elinewidth=1.4,
        )
    _names(axes, [row[0] for row in rows])
    axes.set_xlim(left=0)
    axes.set_xlabel(plain(label))


def _ratios(report: Report) -> Figure | None:
    """Ratios of the first candidates, with intervals and the detection limit as a band."""
    from compressor.compare import CPU_TIME, WALL_TIME, energy_metric

    meter = aggregates.primary_meter(report)
    # Estimated joules are CPU time in other clothes: they are not set beside what was measured.
    wanted = {CPU_TIME, WALL_TIME} | (
        {energy_metric(meter.name)} if meter and meter.provenance != "estimated" else set()
    )
    if len({comparison.candidate for comparison in report.comparisons}) > 1:
        # Of many only what decides; the tables hold the rest.
        wanted = {aggregates.cost_metric(report)}
    rows = [
        (comparison, delta)
        for comparison in report.comparisons
        for delta in comparison.deltas
        if delta.metric in wanted and len(aggregates.sources(delta)) < 2
    ][:_ROWS]
    if not rows:
        return None
    title = "Ratio to each baseline, with 95 % interval and detection limit"
    listed = "; ".join(
        f"{named(c.candidate)} against {named(c.baseline)}, {clean(d.metric, 60)}: {numbers.ratio(d.ratio, d.ci95)}"
        for c, d in rows[:12]
    )
    svg = draw("ratios", title, listed, 1.0 + 0.46 * max(len(rows), 2), lambda axes: _forest(report, axes, rows))
    caption = (
        "Candidate over baseline with 95 % intervals: less is better, 1 is no change. Grey: what the A/A control could "
        "not tell from noise. Filled marks have a verdict, hollow ones have none."
    )
    return Figure(svg, caption)


def _forest(report: Report, axes: Axes, rows: Sequence[tuple[Comparison, Delta]]) -> None:
    axes.set_xscale("log")
    for i, (comparison, delta) in enumerate(rows):
        control = aggregates.control_for(report, delta.metric, comparison.baseline)
        if control is not None and control.passed and control.detection_limit:
            edge = 1 + control.detection_limit
            axes.fill_betweenx([i - 0.42, i + 0.42], 1 / edge, edge, color=FAINT, alpha=0.35, lw=0)
        tone = comparing.verdict(report, delta).tone
        colour = {"good": GOOD, "bad": BAD}.get(tone, FAINT)
        axes.errorbar(
            delta.ratio,
            i,
            None,
            _bars(delta.ratio, delta.ci95),
            color=colour,
            marker="s",
            ms=7,
            lw=0,
            elinewidth=1.6,
            mfc=colour if tone in ("good", "bad") else "none",
        )
    axes.axvline(1, color=INK, lw=1)
    _names(axes, ["" for _ in rows])
    several = len({c.candidate for c, _ in rows}) > 1
    metrics = [clean(d.metric).replace(" per inference", "") for _, d in rows]
    names = [
        f"{shorten(clean(c.candidate), _NAME) if several else metric}\nvs {shorten(clean(c.baseline), _NAME)}"
        for (c, _), metric in zip(rows, metrics, strict=True)
    ]
    axes.set_yticks(range(len(rows)), [plain(n) for n in names])
    ends = [x for _, d in rows for x in (d.ratio, *(d.ci95 or ()))]
    low, high = min(0.85, *ends) * 0.9, max(1.15, *ends) * 1.1
    axes.set_xlim(low, high)
    steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50, 100]
    ticks = [x for x in steps if low <= x <= high]
    gap = math.log(high / low) / 12
    kept = [t for i, t in enumerate(ticks) if t == 1 or (abs(math.log(t)) > gap and (i % 2 == 0 or len(ticks) < 8))]
    axes.set_xticks(kept, [f"{t:g}×" for t in kept])
    axes.minorticks_off()
    axes.set_xlabel(plain(f"{f'{metrics[0]}, ' if several else ''}candidate / baseline"))


def _latency(report: Report) -> Figure | None:
    """Where the calls of each arm lie, by percentiles."""
    rows = [m for m in report.measurements if m.latency is not None][:_ROWS]
    if not rows:
        return None
    batch = rows[0].plan.batch
    scale, unit = axis_unit([max(m.latency.p99_s for m in rows if m.latency)], "s")
    title = f"Latency of a call of {batch}"
    listed = "; ".join(
        f"{named(m.arm)}: p50 {numbers.quantity(m.latency.p50_s, 's')}, "
        f"p90 {numbers.quantity(m.latency.p90_s, 's')}, p99 {numbers.quantity(m.latency.p99_s, 's')}"
        for m in rows[:12]
        if m.latency
    )
    svg = draw("latency", title, listed, _height(len(rows)), lambda axes: _spans(axes, rows, scale, unit, batch))
    caption = (
        f"Time of one call of {batch}: mark at the median, thick bar from the 10th to the 90th percentile, "
        "thin line from the 1st to the 99th."
    )
    return Figure(svg, caption)


def _spans(axes: Axes, rows: Sequence[Measurement], scale: float, unit: str, batch: int) -> None:
    for i, m in enumerate(rows):
        latency = m.latency
        if latency is None:
            continue
        at = [x / scale for x in latency.percentiles_s]
        if len(at) != 101:
            at = [latency.p50_s / scale] * 90 + [latency.p90_s / scale] * 9 + [latency.p99_s / scale] * 2
        colour = _COLOURS[m.role]
        axes.plot([at[1], at[99]], [i, i], color=colour, lw=1.4)
        axes.plot([at[10], at[90]], [i, i], color=colour, lw=6, alpha=0.55, solid_capstyle="butt")
        axes.plot(latency.p50_s / scale, i, color=colour, marker=_MARKERS[m.role], ms=7)
    _names(axes, [m.arm for m in rows])
    lowest = min(m.latency.p50_s for m in rows if m.latency)
    # One slow call of one arm must not press all the others against the axis.
    if lowest > 0 and max(m.latency.p99_s for m in rows if m.latency) > 20 * lowest:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        # One in three of 1, 2, 5 in each decade, or more where the range is short; plain numbers, no powers.
        steps = [m * 10.0**e for e in range(-9, 10) for m in ((1, 2, 5) if high < 200 * low else (1,))]
        ticks = [x for x in steps if low <= x <= high]
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel(f"time per call of {batch}, {unit}")


def _size(report: Report) -> Figure | None:
    """Bytes of each arm's file; a twin shares its original's."""
    rows = [m for m in report.measurements if m.role != "control"][:_ROWS]
    if not rows:
        return None
    scale, unit = axis_unit([m.artifact.size_bytes for m in rows], "B")
    listed = "; ".join(f"{named(m.arm)}: {numbers.quantity(m.artifact.size_bytes, 'B')}" for m in rows[:12])

    def paint(axes: Axes) -> None:
        sizes = [m.artifact.size_bytes / scale for m in rows]
        axes.barh(range(len(rows)), sizes, height=0.5, color=[_COLOURS[m.role] for m in rows], alpha=0.85)
        for i, m in enumerate(rows):
            text = numbers.quantity(m.artifact.size_bytes, "B")
            axes.annotate(text, (sizes[i], i), xytext=(5, 0), textcoords="offset points", va="center")
        _names(axes, [m.arm for m in rows])
        axes.set_xlim(0, max(sizes) * 1.22 or 1)
        axes.set_xlabel(f"file size, {unit}")

    svg = draw("size", "Size of the model files", listed, _height(len(rows)), paint)
    return Figure(svg, "Size of each arm's model file with its external data.")

"""The overview of a history as one HTML page: a Pareto front and a cookbook per task; no script, no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.history.database import Entry
from compressor.history.fronts import Front, Group, Point
from compressor.history.listing import SHOWN_ID
from compressor.history.rows import Mean
from compressor.report import numbers
from compressor.report.canvas import CANDIDATE, FAINT, INK, Label, axis_unit, draw, label_points, plain
from compressor.report.html import template
from compressor.report.model import Cell, Column, Table
from compressor.report.text import clean, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PLOTS = 16
"""Fronts that are drawn; the others have their table only."""
MOST_ALONE = 50
"""Models named that have nothing to be compared with."""
_MOST_DOTS = 300
_LABELLED = 8
_NAME = 26


@dataclass(frozen=True)
class _Shown:
    """One front as the page shows it."""

    title: str
    where: str
    answer: str
    svg: str
    caption: str
    cookbook: Table


def render_page(fronts: Sequence[Front], entries: Sequence[Entry], total: int, min_score: float | None = None) -> str:
    """Render the overview.

    Args:
        fronts: What may be ranked.
        entries: The models to list below the fronts.
        total: How many models there are in all.
        min_score: The score asked for; ``None`` to show what is cheapest at each.

    Returns:
        A whole page. Every text of a record is escaped; only the plots, which are escaped when they are drawn, are
        inserted as they are.
    """
    from markupsafe import Markup

    ranked, alone = [f for f in fronts if len(f.points) > 1], [f for f in fronts if len(f.points) == 1]
    shown = [_show(front, number, min_score) for number, front in enumerate(ranked)]
    runs = {entry.run.digest for entry in entries}
    return template("compressor.history", "history.html.jinja").render(
        glance=_glance(ranked, min_score),
        fronts=[(front, Markup(front.svg)) for front in shown],
        alone=_alone(alone),
        alone_more=numbers.count(len(alone) - MOST_ALONE) if len(alone) > MOST_ALONE else "",
        models=_models(entries),
        listed=numbers.count(len(entries)),
        runs=numbers.count(len(runs)),
        more=numbers.count(total - len(entries)) if total > len(entries) else "",
        estimated=any(e.arm.provenance == "estimated" for e in entries),
    )


def _glance(ranked: Sequence[Front], min_score: float | None) -> Table:
    """One line per front: who is cheapest, or cheapest at the score asked for, and who scores best."""
    wish = "Cheapest" if min_score is None else "Cheapest at the score asked for"
    columns = (Column("task", "Task", "cost"), Column("cheapest", wish), Column("best", "Best score"))
    rows = []
    for front in ranked[:MOST_PLOTS]:
        group = front.group
        first = front.best[0] if min_score is None else front.cheapest(min_score)
        points = [first, front.best[-1]]
        told = [Cell("none", "open") if p is None else Cell(_name(p.entry), note=_figures(p, group)) for p in points]
        rows.append((Cell(clean(group.data, 90), note=clean(group.cost, 80)), *told))
    return Table("The cheapest and the best model of every task", columns, tuple(rows))


def _figures(point: Point, group: Group) -> str:
    cost = _text(point.cost.value, group.cost_unit, point.cost.ci95)
    return f"{cost} at {_text(point.score.value, group.unit, point.score.ci95)}"


# --- one front -----------------------------------------------------------------------------------------------------


def _show(front: Front, number: int, min_score: float | None) -> _Shown:
    group = front.group
    name = _metric(group)
    svg, caption = _plot(front, number, name) if number < MOST_PLOTS else ("", "")
    return _Shown(
        title=f"{clean(group.data, 90)}: {name} against {clean(group.cost, 80)}",
        where=f"{_where(group)} · {numbers.count(len(front.points))} models",
        answer="" if min_score is None else _answer(front, min_score, name),
        svg=svg,
        caption=caption,
        cookbook=_cookbook(front, name),
    )


def _metric(group: Group) -> str:
    return "agreement on random inputs" if group.synthetic else clean(group.metric, 60) or "score"


def _where(group: Group) -> str:
    threads = f"{group.threads} thread{'s' * (group.threads != 1)}"
    runtime = f"{clean(group.runtime, 40)} on {clean(group.device, 40)}"
    work = f" · {clean(group.workload, 60)}" if group.workload else ""
    return f"{clean(group.machine, 90)} · {runtime} · batch {group.batch} · {threads}{work}"


def _name(entry: Entry, limit: int = 80) -> str:
    arm = entry.arm
    if entry.run.kind == "bench":
        return shorten(clean(arm.model), limit)
    # The arm's own name tells an original from what was made of it.
    return shorten(f"{clean(arm.model)} · {clean(arm.arm)}", limit)


def _text(value: float, unit: str, interval: tuple[float, float] | None = None) -> str:
    """A value with its interval; the unit of a score is the user's own text."""
    return numbers.with_interval(value, clean(unit, 20), interval)


def _answer(front: Front, min_score: float, name: str) -> str:
    group = front.group
    least = f"{'at least' if group.higher_is_better else 'at most'} {_text(min_score, group.unit)}"
    point = front.cheapest(min_score)
    if point is None:
        best = front.best[-1]
        score = _text(best.score.value, group.unit, best.score.ci95)
        return f"No model has {name} of {least}; the nearest is {_name(best.entry)} at {score}."
    score = _text(point.score.value, group.unit, point.score.ci95)
    cost = _text(point.cost.value, group.cost_unit, point.cost.ci95)
    side = "below" if group.higher_is_better else "above"
    unsure = "" if _surely(point, group.higher_is_better, min_score) else f"; its interval reaches {side} that"
    each = "token" if group.workload else "inference"
    return f"Cheapest with {name} of {least}: {_name(point.entry)}, {cost} per {each} at {score}{unsure}."


def _surely(point: Point, higher_is_better: bool, min_score: float) -> bool:
    if point.score.ci95 is None:
        return False
    return point.score.ci95[0] >= min_score if higher_is_better else point.score.ci95[1] <= min_score


def _cookbook(front: Front, name: str) -> Table:
    """Who is cheapest, from the least score that anybody has to the best."""
    group = front.group
    columns = (
        Column("need", f"If {name} must be"),
        Column("model", "take"),
        Column("cost", "Cost", clean(group.cost, 80), numeric=True),
        Column("size", "File size", numeric=True),
        Column("run", "Run"),
    )
    word = "at least" if group.higher_is_better else "at most"
    rows = [
        (
            # What is asked for is a number, however uncertain the score that reaches it.
            Cell(f"{word} {_text(p.score.value, group.unit)}", note=_cell(p.score, group.unit).note),
            Cell(_name(p.entry), note=clean(p.entry.arm.method, 60)),
            _cell(p.cost, group.cost_unit),
            Cell(numbers.quantity(p.entry.arm.size_bytes, "B")),
            Cell(p.entry.run.digest[:SHOWN_ID], note=clean(p.entry.run.created_utc[:10])),
        )
        for p in reversed(front.best)
    ]
    return Table(f"Cheapest model at each {name}", columns, tuple(rows))


def _cell(mean: Mean | None, unit: str, provenance: str | None = None) -> Cell:
    if mean is None:
        return Cell(numbers.NOT_AVAILABLE, "open")
    text, interval = numbers.apart(_text(mean.value, unit, mean.ci95))
    source = "" if provenance is None else provenance
    note = " · ".join(part for part in (interval, source) if part)
    return Cell(text, "estimated" if provenance == "estimated" else "plain", note)


def _plot(front: Front, number: int, name: str) -> tuple[str, str]:
    """Score against cost; the front is a line, and what it beats is faint."""
    group = front.group
    scale, unit = axis_unit([p.cost.value for p in front.points], group.cost_unit)
    up = 100.0 if group.unit == "fraction" else 1.0
    chosen = set(map(id, front.best))
    beaten = [p for p in front.points if id(p) not in chosen][:_MOST_DOTS]

    def paint(axes: Axes) -> None:
        axes.plot([p.cost.value / scale for p in beaten], [p.score.value * up for p in beaten], "o", ms=4, color=FAINT)
        xs, ys = [p.cost.value / scale for p in front.best], [p.score.value * up for p in front.best]
        axes.step(xs, ys, where="post", color=CANDIDATE, linewidth=1.4)
        for p, x, y in zip(front.best, xs, ys, strict=True):
            if p.cost.ci95 is not None:
                axes.plot([end / scale for end in p.cost.ci95], [y, y], "-", color=CANDIDATE, linewidth=1)
            if p.score.ci95 is not None:
                axes.plot([x, x], [end * up for end in p.score.ci95], "-", color=CANDIDATE, linewidth=0.8, alpha=0.6)
            axes.plot([x], [y], "s", ms=6, color=CANDIDATE)
        axes.margins(x=0.22, y=0.18)
        shown = [*reversed(front.best[-_LABELLED:]), *(beaten if len(front.points) <= _LABELLED else ())]
        # Where all are of one model its name tells nothing apart.
        alike = len({p.entry.arm.model for p in front.points}) == 1
        names = [shorten(clean(p.entry.arm.arm), _NAME) if alike else _name(p.entry, _NAME) for p in shown]
        labels = [
            Label(plain(name), p.cost.value / scale, p.score.value * up, CANDIDATE if id(p) in chosen else INK)
            for p, name in zip(shown, names, strict=True)
        ]
        label_points(axes, labels)
        axes.set_xlabel(plain(f"{clean(group.cost, 60)}, {unit}"))
        unit_shown = "%" if group.unit == "fraction" else clean(group.unit, 20)
        axes.set_ylabel(plain(f"{name[:1].upper()}{name[1:]}" + (f", {unit_shown}" if unit_shown else "")))

    said = "; ".join(
        f"{_name(p.entry, 60)} {_text(p.score.value, group.unit)}, {_text(p.cost.value, group.cost_unit, p.cost.ci95)}"
        for p in front.best[:12]
    )
    better = "higher" if group.higher_is_better else "lower"
    caption = (
        f"Further left is cheaper, {better} is better. The line is the Pareto front: no other model here is both "
        "cheaper and better. Bars are 95 % intervals; separate runs are not paired: neighbours within them are alike."
    )
    if len(front.points) - len(front.best) > len(beaten):
        caption += f" Of the models behind it {len(beaten)} are drawn."
    return draw(f"front-{number}", f"{name} against {clean(group.cost, 80)}", said, 3.4, paint), caption


# --- what has no front ---------------------------------------------------------------------------------------------


def _alone(found: Sequence[Front]) -> Table:
    columns = (
        Column("model", "Model"),
        Column("task", "Task", "machine, runtime, batch"),
        Column("score", "Score", numeric=True),
        Column("cost", "Cost", numeric=True),
    )
    rows = []
    for front in found[:MOST_ALONE]:
        point, group = front.points[0], front.group
        cost = _cell(point.cost, group.cost_unit)
        rows.append(
            (
                Cell(_name(point.entry)),
                Cell(clean(group.data, 90), note=_where(group)),
                _cell(point.score, group.unit),
                Cell(cost.text, cost.tone, " · ".join(part for part in (cost.note, clean(group.cost, 80)) if part)),
            )
        )
    return Table("Models with nothing to compare with", columns, tuple(rows))


# --- all models ----------------------------------------------------------------------------------------------------


def _models(entries: Sequence[Entry]) -> Table:
    columns = (
        Column("run", "Run"),
        Column("model", "Model", "method"),
        Column("task", "Task", "machine, runtime, batch"),
        Column("score", "Score", "before → after", numeric=True),
        Column("energy", "Energy", "per inference", numeric=True),
        Column("cpu", "CPU time", "per inference", numeric=True),
        Column("spent", "Compressing", numeric=True),
        Column("carbon", "Carbon", "per inference", numeric=True),
        Column("size", "File size", numeric=True),
    )
    return Table("Models listed", columns, tuple(_model(entry) for entry in entries))


def _model(entry: Entry) -> tuple[Cell, ...]:
    run, arm, before = entry.run, entry.arm, entry.before
    score = _cell(arm.score, arm.score_unit or "")
    if before is not None and before.score is not None and arm.score is not None:
        score = Cell(f"{_text(before.score.value, before.score_unit or '')} → {score.text}", note=score.note)
    label = f"energy label {arm.label}" if arm.label else ""
    energy = _cell(arm.energy_j, "J", provenance=arm.provenance)
    spent = None if run.compress_j is None else Mean(run.compress_j, None)
    took = "" if run.compress_s is None else numbers.duration(run.compress_s)
    compressing = _cell(spent, "J", provenance=run.compress_provenance)
    carbon = None if arm.carbon_g is None else Mean(arm.carbon_g, None)
    work = f"; per token, {clean(arm.workload, 60)}" if arm.workload else ""
    place = f"{shorten(clean(arm.machine), 60)}, {clean(arm.runtime, 20)}, batch {arm.batch}{work}"
    return (
        Cell(run.digest[:SHOWN_ID], note=clean(run.created_utc[:10])),
        Cell(_name(entry), note=" · ".join(part for part in (clean(arm.method, 60), label) if part)),
        Cell("random inputs" if run.synthetic else clean(run.task, 60), note=place),
        score,
        energy,
        _cell(arm.cpu_s, "s"),
        Cell(compressing.text, compressing.tone, " · ".join(part for part in (compressing.note, took) if part)),
        _cell(carbon, "g CO₂e", provenance=arm.provenance),
        Cell(numbers.quantity(arm.size_bytes, "B")),
    )

"""Life cycle: what compressing and using cost together, when it is paid back, and what would eat the saving."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compressor.compare import CPU_TIME
from compressor.footprint import JOULES_PER_KWH, rebound
from compressor.report import aggregates, numbers
from compressor.report.canvas import BASELINE, CANDIDATE, FAINT, Figure, axis_unit, draw, plain
from compressor.report.comparing import verdict
from compressor.report.model import Cell, Column, Section, Table
from compressor.report.text import clean, named, shorten
from compressor.report.use import pair, usage, use_ratio
from compressor.results import BreakEven, Quantity, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAME = 60
_POINTS = 60


@dataclass(frozen=True)
class Life:
    """``E(N) = training + compressing + N × per inference``, for both arms.

    Attributes:
        metric: In what, with its provenance.
        unit: ``J`` or ``s``.
        training: What training cost both; 0 where it was not given or is not in this unit.
        compressing: What compressing cost.
        before: Per inference of the baseline.
        after: Per inference of the candidate.
        paid_back: When the two curves cross.
    """

    metric: str
    unit: str
    training: float
    compressing: float
    before: Quantity
    after: Quantity
    paid_back: BreakEven


def life(report: Report) -> Life | None:
    """The life cycle of the main comparison: in measured joules, else in CPU time; ``None`` where costs are missing."""
    arms = pair(report)
    if arms is None:
        return None
    meter = aggregates.measured_meter(report)
    if meter is None and aggregates.time_name(report) != CPU_TIME:
        # What compressing cost is counted in joules and CPU time; neither is what a GPU's inferences are told in.
        return None
    wanted = "CPU time" if meter is None else f"energy ({meter.name})"
    entry = next((b for b in report.break_even if b.baseline == arms[0].arm and b.metric == wanted), None)
    if entry is None and meter is not None:
        # A stage's joules may be missing where the arms' are not.
        meter = None
        entry = next((b for b in report.break_even if b.baseline == arms[0].arm and b.metric == "CPU time"), None)
    if entry is None:
        return None
    if aggregates.void(report, aggregates.paid_metric(entry)):
        entry = replace(entry, inferences=None, ci95=None, reason="the A/A control failed")
    if meter is None:
        before, after = (aggregates.cpu_time(report, m).quantity for m in arms)
    else:
        before, after = (aggregates.energy(report, m, meter).quantity for m in arms)
    if before is None or after is None:
        return None
    training = usage(report).training_kwh if meter is not None else None
    name = "CPU time" if meter is None else f"energy, {meter.provenance} ({clean(meter.name, 20)})"
    return Life(
        name,
        before.unit,
        (training or 0.0) * JOULES_PER_KWH,
        entry.cost.value,
        before,
        after,
        entry,
    )


def rebound_text(report: Report) -> str:
    """How much more use would eat the saving per inference; empty where no saving is established."""
    found = use_ratio(report)
    if found is None:
        return ""
    delta, name = found
    if verdict(report, delta).text != "better" or delta.ci95 is None:
        return "No saving per inference is established, so there is none that more use could eat."
    factor = rebound(delta.ratio)
    ends = (rebound(delta.ci95[1]), rebound(delta.ci95[0]))
    times = numbers.ratio(factor, ends)
    value, interval = numbers.apart(times)
    return (
        f"Rebound: what costs less is used more. {value}× {interval} as many inferences would eat the whole saving "
        f"({name}); the cost of compressing not counted."
    )


def lifecycle_section(report: Report) -> Section | None:
    """The curves, what a stated number of uses makes of them, and the rebound."""
    found, note = life(report), rebound_text(report)
    said = usage(report)
    if found is None:
        return Section("life", "Life cycle", (note,)) if note else None
    text = [
        f"E(N) = {'training + ' if found.training else ''}compressing + N × inference, in {found.metric}. "
        f"Compressing cost {_shown(found.compressing, found.unit)}, all its stages together.",
        _crossing(found.paid_back),
    ]
    if said.training_kwh is not None and not found.training:
        text.append(
            f"Training is stated as {numbers.quantity(said.training_kwh * 1000, 'Wh')}; it is left out here, as a "
            "stated energy is not added to a CPU time."
        )
    elif found.training:
        text.append(f"Training, as the user stated it: {numbers.quantity(said.training_kwh or 0.0, 'kWh')}.")
    text.append(note)
    tables = (_uses(report, found, said.inferences),) if said.inferences else ()
    return Section("life", "Life cycle", tuple(t for t in text if t), tables=tables, figures=("life",))


def _shown(value: float, unit: str) -> str:
    return numbers.duration(value) if unit == "s" else numbers.quantity(value, unit)


def _crossing(entry: BreakEven) -> str:
    if entry.inferences is None:
        return f"Break-even: never established, {clean(entry.reason)}."
    return f"Break-even: after {numbers.count(entry.inferences, entry.ci95)} inferences."


def total(found: Life, per: Quantity, inferences: float, compressing: float) -> Quantity:
    """What an arm costs over so many uses, with the interval of its inferences."""
    fixed = found.training + compressing
    ends = None if per.ci95 is None else (fixed + per.ci95[0] * inferences, fixed + per.ci95[1] * inferences)
    return Quantity(fixed + per.value * inferences, per.unit, ends, per.provenance)


def _uses(report: Report, found: Life, inferences: int) -> Table:
    arms = pair(report)
    names = [named(m.arm) for m in arms] if arms else ["before", "after"]
    columns = (
        Column("arm", "Arm"),
        Column("training", "Training", "as stated", numeric=True),
        Column("compressing", "Compressing", numeric=True),
        Column("using", f"{numbers.count(inferences)} inferences", numeric=True),
        Column("total", "Together", numeric=True),
        Column("each", "Per inference", "everything included", numeric=True),
    )
    rows = []
    for name, per, compressing in ((names[0], found.before, 0.0), (names[1], found.after, found.compressing)):
        using = total(Life("", found.unit, 0.0, 0.0, per, per, found.paid_back), per, inferences, 0.0)
        whole = total(found, per, inferences, compressing)
        each_ends = None if whole.ci95 is None else (whole.ci95[0] / inferences, whole.ci95[1] / inferences)
        rows.append(
            (
                Cell(name),
                Cell(numbers.quantity(found.training, found.unit) if found.training else "none counted"),
                Cell(numbers.quantity(compressing, found.unit) if compressing else "none"),
                _amount(using),
                _amount(whole),
                _amount(Quantity(whole.value / inferences, whole.unit, each_ends)),
            )
        )
    return Table(
        f"Over the model's lifetime of {numbers.count(inferences)} inferences, {found.metric}", columns, tuple(rows)
    )


def _amount(q: Quantity) -> Cell:
    value, interval = numbers.apart(numbers.with_interval(q.value, q.unit, q.ci95))
    return Cell(value, note=interval)


def lifecycle_figure(report: Report) -> Figure | None:
    """Both curves over the number of uses, with their intervals and the crossing."""
    found = life(report)
    if found is None or found.compressing <= 0 or found.before.value <= 0:
        return None
    crossing = found.paid_back
    centre = crossing.inferences or (found.training + found.compressing) / found.before.value
    low, high = max(1.0, centre / 30), centre * 30
    said = usage(report).inferences
    if said:
        low, high = min(low, max(1.0, said / 3)), max(high, said * 3)
    at = [low * (high / low) ** (i / (_POINTS - 1)) for i in range(_POINTS)]
    curves = [
        ("original", found.before, 0.0, BASELINE, "--"),
        ("compressed", found.after, found.compressing, CANDIDATE, "-"),
    ]
    scale, unit = axis_unit([total(found, found.before, centre, 0.0).value], found.unit)
    title = f"Life cycle: {found.metric} over the number of inferences"
    listed = f"{_crossing(crossing)} Compressing cost {_shown(found.compressing, found.unit)}."

    def paint(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.set_yscale("log")
        for name, per, cost, colour, dashes in curves:
            totals = [total(found, per, n, cost) for n in at]
            if per.ci95 is not None:
                lows, highs = ([q.ci95[end] / scale if q.ci95 else math.nan for q in totals] for end in (0, 1))
                axes.fill_between(at, lows, highs, color=colour, alpha=0.2, lw=0)
            axes.plot(at, [q.value / scale for q in totals], color=colour, ls=dashes, lw=1.8, label=name)
        if crossing.inferences is not None:
            if crossing.ci95 is not None:
                axes.axvspan(max(crossing.ci95[0], low), min(crossing.ci95[1], high), color=FAINT, alpha=0.25, lw=0)
            axes.axvline(crossing.inferences, color=FAINT, lw=1, ls=":")
        if said:
            axes.axvline(said, color=BASELINE, lw=1)
            axes.annotate("stated use", (said, 0.03), xycoords=("data", "axes fraction"), rotation=90, va="bottom")
        axes.set_xlabel("inferences")
        axes.set_ylabel(plain(shorten(f"{found.metric.split(' (')[0]}, {unit}", 40)))
        axes.legend(frameon=False, fontsize=9)

    caption = (
        "Bands: 95 % intervals of the inferences. Dotted line and grey band: break-even with its interval."
        if crossing.inferences is not None
        else "Bands: 95 % intervals of the inferences. The curves are not established to cross."
    )
    return Figure(draw("life", title, listed, 3.4, paint), caption)

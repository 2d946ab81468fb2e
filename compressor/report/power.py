"""Watts of each arm over the blocks, where a meter measured them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.report import aggregates, numbers
from compressor.report.canvas import Figure, draw, plain, series
from compressor.report.text import clean, named, shorten
from compressor.results import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = 8
_POINTS = 200


def power_figure(report: Report) -> Figure | None:
    """Mean watts of every block, in the order of the blocks; ``None`` where nothing was measured."""
    meter = aggregates.measured_meter(report)
    if meter is None:
        return None
    joules = aggregates.joules_of(meter)
    lines = []
    for m in report.measurements:
        if m.role == "control":
            continue
        trials = sorted(m.trials, key=lambda t: t.block)
        watts = [(t.block + 1, aggregates.per(joules(t), t.elapsed_s)) for t in trials if t.elapsed_s > 0]
        read = [(block, value) for block, value in watts if value is not None]
        if read:
            lines.append((m, read))
    if not lines:
        return None
    shown = [*[one for one in lines if one[0].role != "stage"], *[one for one in lines if one[0].role == "stage"]]
    shown = shown[:_LINES]
    title = f"Power over time, {meter.provenance} ({clean(meter.name, 20)})"
    listed = "; ".join(
        f"{named(m.arm)}: {numbers.quantity(min(w for _, w in read), 'W')} to "
        f"{numbers.quantity(max(w for _, w in read), 'W')}"
        for m, read in shown
    )
    idle_keys = [f"{meter.name}/{domain}" for domain in meter.total or meter.domains]
    idle = [m.idle_power_w for m, _ in shown if all(key in m.idle_power_w for key in idle_keys)]

    def paint(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for i, (m, read) in enumerate(shown):
            step = max(1, len(read) // _POINTS)
            kept = read[::step]
            look = series(i)
            axes.plot(
                [b for b, _ in kept],
                [w for _, w in kept],
                color=look.colour,
                marker=look.marker if len(kept) <= 40 else "",
                ls=look.line,
                ms=4.5,
                lw=1.4,
                label=plain(shorten(clean(m.arm), 28)),
            )
        if idle:
            watts = sum(sum(one[key] for key in idle_keys) for one in idle) / len(idle)
            axes.axhline(watts, color=series(0).colour, lw=1, ls=":", label="idle")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("block, in the order of the run")
        axes.set_ylabel("mean power, W (gross)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8.5, loc="best", ncols=2)

    caption = "Mean gross power of each arm in every block. A drift here would be heat, throttling or other processes."
    if len(lines) > _LINES:
        caption += f" The first {_LINES} of {len(lines)} arms."
    return Figure(draw("power", title, listed, 3.2, paint), caption)

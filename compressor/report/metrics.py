"""The metrics of green AI: energy times delay, energy-precision ratio, arithmetic, utilisation, carbon, SCI, label."""

from __future__ import annotations

from collections.abc import Callable

from compressor import footprint
from compressor.report import aggregates, numbers, use
from compressor.report.model import Cell, Column, Section, Table
from compressor.report.text import clean, named
from compressor.results import Measurement, Quantity, Report
from compressor.stats import mean

_NAME = 60
NO_CARBON = "no carbon: neither a country nor a carbon intensity was given"


def _cell(q: Quantity | None, why: str) -> Cell:
    if q is None:
        return Cell(why, "open")
    value, interval = numbers.apart(numbers.with_interval(q.value, q.unit, q.ci95))
    source = "estimated" if q.provenance == "estimated" else ""
    note = " ".join(part for part in (interval, source) if part)
    return Cell(value, "estimated" if source else "plain", note)


def _flops(m: Measurement) -> Cell:
    macs = m.artifact.macs
    if macs is None:
        return Cell("not counted", "open")
    # A cache is empty: only inputs of some size say what was counted.
    shapes = dict.fromkeys(shape for shape in m.artifact.macs_shapes if 0 not in shape)
    sizes = " and ".join("×".join(map(str, shape)) for shape in shapes)
    note = f"{numbers.count(macs)} MACs" + (f", inputs of {sizes}" if sizes else "")
    return Cell(numbers.quantity(2 * macs, "FLOP"), note=note)


def _rate(report: Report, m: Measurement) -> Cell:
    wall = aggregates.wall_time(report, m).quantity
    if m.artifact.macs is None or wall is None:
        return Cell("not counted", "open")
    work = 2 * m.artifact.macs
    ends = wall.ci95 and (work / wall.ci95[1], work / wall.ci95[0])
    return _cell(Quantity(work / wall.value, "FLOP/s", ends), "")


def _busy(m: Measurement) -> Cell:
    q = use.busy_cores(m)
    if q is None:
        return Cell("no finished block", "open")
    threads = m.plan.threads
    share = Quantity(q.value / threads, "fraction", q.ci95 and (q.ci95[0] / threads, q.ci95[1] / threads))
    # A tenth of a per cent is all that a reader can use, however narrow the interval.
    shown = f"{100 * share.value:.1f} %" if share.value >= 0.1 else numbers.quantity(share.value, "fraction")
    ends = "" if share.ci95 is None else f"[{100 * share.ci95[0]:.1f}, {100 * share.ci95[1]:.1f}] "
    return Cell(shown, note=f"{ends}of {threads} thread{'s' * (threads != 1)}")


def _gpu_busy(m: Measurement) -> Cell:
    """Of the GPU that was the busiest: the others of the machine have nothing to do with the arm."""
    gpus = {key for trial in m.trials for key in trial.utilisation}
    read = {key: [t.utilisation[key] for t in m.trials if key in t.utilisation] for key in sorted(gpus)}
    if not read:
        return Cell("not read", "open", _why_no_gpu(m))
    key, shares = max(read.items(), key=lambda item: sum(item[1]) / len(item[1]))
    value, ends = mean(shares)
    inside = "" if ends is None else f"[{100 * max(0.0, ends[0]):.1f}, {100 * min(1.0, ends[1]):.1f}] "
    return Cell(f"{100 * value:.1f} %", note=f"{inside}of the time, {clean(key, 40)}")


def _why_no_gpu(m: Measurement) -> str:
    if not m.trials:
        return "no finished block"
    nvml = aggregates.meter_of(m, "nvml")
    if nvml is None:
        return "needs the meter nvml"
    told = [part for part in nvml.source.split("; ") if part.startswith("utilisation of ")]
    return clean("; ".join(told), 120)


def metrics_section(report: Report) -> Section | None:
    """All metrics of the two arms that the headline is about."""
    arms = use.pair(report)
    if arms is None:
        return None
    said, found = use.usage(report), use.intensity(report)
    meter = aggregates.primary_meter(report)
    unread = "not read"
    rows: list[tuple[str, str, Callable[[Measurement], Cell]]] = [
        ("Energy per inference", "", lambda m: _cell(use.energy_of(report, m), unread)),
        ("EDP", "energy × delay", lambda m: _cell(use.delay_product(report, m), unread)),
        (
            "Energy-precision ratio",
            f"Error^α × energy, α = {said.alpha:g}",
            lambda m: _cell(use.energy_precision(report, m), "needs joules and a share of right answers"),
        ),
        ("Arithmetic", "2 FLOPs per MAC", _flops),
        ("Arithmetic per second", "wall time", lambda m: _rate(report, m)),
        ("CPU utilisation", "CPU time over wall time", _busy),
    ]
    if any(m.runtime.device != "cpu" for m in arms):
        rows.append(("GPU utilisation", "time in which a kernel ran", _gpu_busy))
    if found is not None:
        rows += [
            ("Operational carbon", "per inference", lambda m: _cell(_carbon(report, m), unread)),
            ("SCI", "((E × I) + M) / R, R = 1 inference", lambda m: _cell(use.sci(report, m), unread)),
        ]
    columns = (
        Column("metric", "Metric"),
        *(Column(key, named(m.arm), numeric=True) for key, m in zip(("before", "after"), arms, strict=True)),
    )
    cells = tuple((Cell(name, note=note), *(of(m) for m in arms)) for name, note, of in rows)
    letter, why = use.label(report)
    facts = [("Energy label", f"{letter}, on the pessimistic end of the interval" if letter else f"none: {why}")]
    facts += _facts(report)
    text = (
        "Formulas, units and sources: docs/metrics.md of the project. "
        + (f"Joules are {meter.provenance} by {clean(meter.name, 40)}." if meter else "No joules were read."),
    )
    tables = [Table("Metrics per inference, 95 % intervals in brackets", columns, cells)]
    if said.data_efficiency:
        tables.append(_data_efficiency(report))
    return Section("metrics", "Metrics and carbon", text, tables=tuple(tables), facts=tuple(facts))


def _carbon(report: Report, m: Measurement) -> Quantity | None:
    joules = use.energy_of(report, m)
    return None if joules is None else use.carbon(report, joules)


def intensity_text(report: Report) -> str:
    """The intensity with its place, year and source."""
    found = use.intensity(report)
    if found is None:
        return NO_CARBON
    place = f", {clean(found.place, 40)}" if found.place else ""
    year = f" {found.year}" if found.year is not None else ""
    return f"{found.g_per_kwh:g} g CO₂e/kWh{place}{year} ({clean(found.source, 80)})"


def _facts(report: Report) -> list[tuple[str, str]]:
    said = use.usage(report)
    facts = [("Carbon intensity", intensity_text(report))]
    if use.intensity(report) is None:
        return facts
    facts.append(("PUE", f"{said.pue:g}{' (the computer alone)' if said.pue == 1 else ''}"))
    if said.embodied_g is None:
        facts.append(("Embodied carbon M", "0, none was given"))
    else:
        each = numbers.quantity(use.embodied_g(report), use.CARBON)
        facts.append(
            ("Embodied carbon M", f"{each} per inference ({said.embodied_g:g} g over {said.inferences} uses, as given)")
        )
    return facts + _equivalents(report)


def _equivalents(report: Report) -> list[tuple[str, str]]:
    """What the saving over the stated uses is like; nothing unless both arms' joules are of one kind."""
    uses, each = use.usage(report).inferences, use.saved(report)
    grams = None if each is None or not uses else use.carbon(report, use.scaled(each, uses, "J"))
    if each is None or grams is None or not uses:
        return []
    joules = use.scaled(each, uses, "J")
    energy, carbon = (numbers.with_interval(q.value, q.unit, q.ci95) for q in (joules, grams))
    return [
        (
            f"Saved over {numbers.count(uses)} uses",
            f"{energy} ({each.provenance}), {carbon}: about {_about(footprint.phone_charges(joules.value))} phone "
            f"charges, or {_about(footprint.car_km(grams.value))} km by car (US EPA); compressing not counted",
        )
    ]


def _about(value: float) -> str:
    """Two significant digits: an everyday equivalent carries no more."""
    sign, size = "−" if value < 0 else "", abs(value)
    if size < 10:
        return f"{sign}{size:.{1 if size < 0.01 else 2}g}"
    return sign + numbers.count(float(f"{size:.2g}"))


def _data_efficiency(report: Report) -> Table:
    columns = (
        Column("fraction", "Training data", numeric=True),
        Column("score", "Score", clean(report.task.metric, 40), numeric=True),
    )
    scores = [m.score for m in report.measurements if m.score is not None]
    unit = scores[0].unit if scores else ""
    rows = tuple(
        (Cell(f"{100 * fraction:g} %"), Cell(numbers.quantity(score, unit)))
        for fraction, score in sorted(use.usage(report).data_efficiency)
    )
    return Table("Data efficiency: the score with part of the training data, as given by the user", columns, rows)

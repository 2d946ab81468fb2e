"""From a Report to what is shown: a pure function, so that every format says the same."""

from __future__ import annotations

from compressor.compare import total_domains
from compressor.report import aggregates, background, comparing, numbers, summary, use
from compressor.report.aggregates import Amount
from compressor.report.cheapest import on_gpu
from compressor.report.headline import headline
from compressor.report.layers import sensitivity_section
from compressor.report.lifecycle import lifecycle_section
from compressor.report.metrics import metrics_section
from compressor.report.model import Cell, Column, Detail, Section, Table, View
from compressor.report.moved import moved_section
from compressor.report.text import clean, moment, named, work
from compressor.report.waterfall import waterfall_section
from compressor.results import Measurement, MeterInfo, Quantity, Report

_NAME = 60


def _amount(amount: Amount, *, say_source: bool = False) -> Cell:
    """The mean with its interval below it; a column of several provenances says each cell's own."""
    q = amount.quantity
    if q is None:
        return Cell(amount.why, "open")
    text, interval = numbers.apart(numbers.with_interval(q.value, q.unit, q.ci95))
    source = f" {q.provenance}" if say_source and q.provenance is not None else ""
    note = "; ".join(part for part in (interval, amount.why) if part)
    return Cell(f"{text}{source}", "estimated" if q.provenance == "estimated" else "plain", note)


def _score(measurement: Measurement) -> Cell:
    score = measurement.score
    if score is None:
        return Cell("no task", "open")
    text, interval = numbers.apart(numbers.with_interval(score.value, score.unit, aggregates.score_interval(score)))
    return Cell(text, note=interval)


def _energy(report: Report, measurement: Measurement, first: MeterInfo | None) -> Cell:
    """The arm's joules from the meter shown first, with its own provenance."""
    meter = first and aggregates.meter_of(measurement, first.name)
    if meter is None:
        return Cell("not read", "open")
    mixed = len({m.provenance for m in aggregates.read_meters(report) if m.name == meter.name}) > 1
    return _amount(aggregates.energy(report, measurement, meter), say_source=mixed)


def arms_table(report: Report) -> Table:
    """All arms side by side, one energy domain; the others are in :func:`energy_section`."""
    first = aggregates.primary_meter(report)
    sources = sorted({m.provenance for m in aggregates.read_meters(report) if first and m.name == first.name})
    energy_note = f"{' and '.join(sources)}, {clean(first.name, 40)}" if first else "no meter was read"
    batch = report.measurements[0].plan.batch if report.measurements else 1
    columns = (
        Column("arm", "Arm"),
        Column("runtime", "Runtime"),
        Column("score", comparing.score_label(report), numeric=True),
        Column("energy", "Energy", energy_note, numeric=True),
        Column("cpu", "CPU time", numeric=True),
        Column("wall", "Wall time", numeric=True),
        Column("throughput", "Throughput", "inferences/s", numeric=True),
        Column("p50", "p50", numeric=True),
        Column("p90", "p90", numeric=True),
        Column("p99", "p99", numeric=True),
        Column("memory", "Peak memory", numeric=True),
        Column("size", "File size", numeric=True),
    )
    rows = []
    for m in report.measurements:
        wall = aggregates.wall_time(report, m)
        q = wall.quantity
        rate = (
            wall
            if q is None
            else Amount(Quantity(1 / q.value, "", q.ci95 and (1 / q.ci95[1], 1 / q.ci95[0])), wall.why)
        )
        latency = m.latency
        calls = [
            Cell("not timed", "open") if latency is None else Cell(numbers.quantity(x, "s"))
            for x in ((latency.p50_s, latency.p90_s, latency.p99_s) if latency else (0.0, 0.0, 0.0))
        ]
        memory = m.peak_memory_bytes
        rows.append(
            (
                Cell(named(m.arm), note=m.role),
                Cell(clean(m.runtime.name, 40), note=clean(f"{m.runtime.version}, {m.runtime.device}", 60)),
                _score(m),
                _energy(report, m, first),
                _amount(aggregates.cpu_time(report, m)),
                _amount(wall),
                _amount(rate),
                *calls,
                Cell("not read", "open") if memory is None else Cell(numbers.quantity(memory, "B")),
                Cell(numbers.quantity(m.artifact.size_bytes, "B")),
            )
        )
    caption = (
        "All arms, run side by side. Energy (gross), CPU and wall time per inference, "
        f"latency per call of {batch}; 95 % intervals in brackets"
    )
    return Table(caption, columns, tuple(rows))


def energy_section(report: Report) -> Section:
    """Joules by domain, gross and above idle; what was promised and not read is named."""
    columns = (
        Column("arm", "Arm"),
        Column("domain", "Domain"),
        Column("provenance", "Joules are"),
        Column("gross", "Gross", "per inference", numeric=True),
        Column("above", "Above idle", "per inference", numeric=True),
        Column("power", "Mean power", "gross", numeric=True),
    )
    rows, absent = [], []
    names = list(dict.fromkeys(meter.name for meter in aggregates.meters(report)))
    for name in names:
        for m in report.measurements:
            meter = aggregates.meter_of(m, name)
            if meter is None:
                absent.append(f"{named(m.arm)} did not run under {clean(name, 40)}.")
                continue
            parts = [None, *meter.domains] if len(total_domains(meter)) > 1 else list(meter.domains)
            for domain in parts:
                label = clean(f"{name}, total" if domain is None else f"{name}/{domain}", 40)
                gross = aggregates.energy(report, m, meter, domain)
                if gross.why:
                    absent.append(f"{named(m.arm)}, {label}: {gross.why}.")
                rows.append(
                    (
                        Cell(named(m.arm)),
                        Cell(label),
                        Cell(meter.provenance, "estimated" if meter.provenance == "estimated" else "measured"),
                        _amount(gross),
                        _amount(aggregates.energy(report, m, meter, domain, above_idle=True)),
                        Cell("assumed, not read", "open")
                        if meter.provenance == "estimated"
                        else _amount(aggregates.power(m, meter, domain)),
                    )
                )
    if not rows:
        return Section("energy", "Energy by domain", ("No energy meter was read in this run.",))
    text = ("Domains that hold each other are never added up. A missing reading is absent, not zero.",)
    details = (Detail(f"What was not read ({len(absent)})", tuple(absent)),) if absent else ()
    table = Table("Energy by domain", columns, tuple(rows))
    return Section("energy", "Energy by domain", text, tables=(table,), details=details, figures=("power",))


def _sections(report: Report) -> tuple[Section | None, ...]:
    return (
        waterfall_section(report),
        energy_section(report),
        moved_section(report),
        background.kernels_section(report),
        sensitivity_section(report),
        metrics_section(report),
        background.cost_section(report),
        lifecycle_section(report),
        background.parity_section(report),
        comparing.control_section(report),
        background.protocol_section(report),
        background.machine_section(report),
        background.repeat_section(report),
    )


def warnings_shown(report: Report) -> tuple[str, ...]:
    """The record's warnings; one that several arms share is said once for all of them."""
    about: dict[str, list[str]] = {}
    for warning in report.warnings:
        arm = max((m.arm for m in report.measurements if warning.startswith(f"{m.arm} ")), key=len, default="")
        about.setdefault(warning.removeprefix(f"{arm} ") if arm else warning, []).append(arm)
    found = []
    for rest, arms in about.items():
        if len(arms) > 2 and all(arms):
            every = len(arms) == len(report.measurements)
            found.append(f"All {len(arms)} arms: each {rest}" if every else f"{', '.join(arms)}: each {rest}")
        else:
            found += [f"{arm} {rest}" if arm else rest for arm in arms]
    works = {work(m.plan.workload) for m in report.measurements if m.plan.workload is not None}
    found += [f"An inference is here one token: {one}." for one in sorted(works)]
    return tuple(clean(w, 800) for w in found)


def said(report: Report) -> str:
    """The headline that follows from the record's figures, whatever words are written in it."""
    return clean(headline(report), 800)


def view(report: Report) -> View:
    """Lay out a report.

    Args:
        report: The record; nothing else is looked at.

    Returns:
        Everything that any format shows, in plain text.
    """
    model, task = report.model, report.task
    data = "synthetic inputs" if task.synthetic else clean(task.name, 60)
    result = use.pair(report)
    ran = result[1] if result else next(iter(report.measurements), None)
    machine = "no machine"
    if ran is not None:
        gpus = ", ".join(dict.fromkeys(ran.environment.gpus)) or ran.runtime.device
        machine = gpus if on_gpu(ran) else ran.environment.cpu
    return View(
        title=f"{clean(model.name, 80)} · {clean(' + '.join(report.methods), 60) or 'no method'}",
        subtitle=f"{data} · {clean(machine, 60)} · {moment(report.created_utc)}",
        headline=said(report),
        tone=summary.tone(report),
        chips=summary.chips(report),
        warnings=warnings_shown(report),
        against=summary.against(report),
        key_figures=summary.key_figures(report),
        arms=arms_table(report),
        runtime_alone=comparing.runtime_sentence(report),
        comparisons=tuple(comparing.comparison_section(report, i, c) for i, c in enumerate(report.comparisons, 1)),
        sections=tuple(section for section in _sections(report) if section is not None),
        colophon=f"{clean(report.tool, 60)} · {clean(report.created_utc, 40)} · record version {report.schema}",
    )

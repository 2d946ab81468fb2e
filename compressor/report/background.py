"""What stands behind the numbers: kernels, parity, cost, protocol, machine, meters, and how to repeat it all."""

from __future__ import annotations

import re
from collections.abc import Mapping

from compressor.report import aggregates, numbers
from compressor.report.model import Cell, Column, Detail, Section, Table
from compressor.report.text import clean, named
from compressor.results import BreakEven, KernelCounts, Measurement, Report, TensorSpec

_NAME = 60


def kernel_text(kernels: KernelCounts) -> str:
    """``int8: 20 of 21 compute ops``."""
    if kernels.precision == "fp32":
        return f"fp32: all {kernels.compute} compute ops"
    return f"{clean(kernels.precision, 20)}: {kernels.low_precision} of {kernels.compute} compute ops"


def kernels_section(report: Report) -> Section:
    """Which arithmetic really runs, arm by arm, and what stayed in high precision."""
    columns = (Column("arm", "Arm"), Column("kernels", "Kernels that run"), Column("left", "Left in high precision"))
    rows, details = [], []
    for m in report.measurements:
        if m.role == "control":
            continue
        if m.kernels is None:
            rows.append((Cell(named(m.arm)), Cell("not told by the runtime", "open"), Cell(numbers.NOT_AVAILABLE)))
            continue
        low = m.kernels.precision != "fp32"
        left = f"{len(m.kernels.left)}" if low else numbers.NOT_AVAILABLE
        rows.append((Cell(named(m.arm)), Cell(kernel_text(m.kernels)), Cell(left)))
        if low and m.kernels.left:
            lines = tuple(f"{clean(name, 80)}: {clean(why, 200)}" for name, why in m.kernels.left.items())
            details.append(Detail(f"{named(m.arm)}: what stayed in high precision, and why ({len(lines)})", lines))
        ops = sorted(m.kernels.by_op.items(), key=lambda item: (-item[1], item[0]))
        details.append(
            Detail(
                f"{named(m.arm)}: all operators of the optimised graph ({sum(n for _, n in ops)})",
                tuple(f"{n} × {clean(op, 80)}" for op, n in ops),
            )
        )
    text = ("Counted in the graph that the runtime executes after its own optimisation, not in the file.",)
    table = Table("Kernels by arm", columns, tuple(rows))
    return Section("kernels", "Kernels", text, tables=(table,) if rows else (), details=tuple(details))


def parity_section(report: Report) -> Section:
    """How far the outputs are from the original's."""
    if not report.parity:
        return Section("parity", "Parity of outputs", ("No outputs were compared.",))
    columns = (
        Column("arm", "Arm"),
        Column("reference", "Compared with"),
        Column("examples", "Inputs", numeric=True),
        Column("max", "Largest difference", "of one output", numeric=True),
        Column("relative", "Relative difference", "norm over norm", numeric=True),
        Column("top1", "Same top class", numeric=True),
        Column("bound", "Required", numeric=True),
    )
    rows = []
    for name, p in report.parity.items():
        held = p.tolerance is None or p.relative <= p.tolerance
        rows.append(
            (
                Cell(clean(name, _NAME)),
                Cell(clean(p.reference, 40)),
                Cell(numbers.count(p.examples)),
                Cell(numbers.small(p.max_abs)),
                Cell(numbers.small(p.relative)),
                Cell(numbers.NOT_AVAILABLE if p.same_top1 is None else numbers.percent(p.same_top1, 3)),
                Cell("none")
                if p.tolerance is None
                else Cell(
                    f"at most {numbers.small(p.tolerance)}", "plain" if held else "bad", "" if held else "exceeded"
                ),
            )
        )
    table = Table("Outputs against the original's, same inputs", columns, tuple(rows))
    return Section("parity", "Parity of outputs", tables=(table,))


def _joules(energy_j: Mapping[str, float]) -> Cell:
    text = "; ".join(f"{numbers.quantity(v, 'J')} ({clean(k, 40)})" for k, v in energy_j.items())
    return Cell(text or "not read")


def cost_section(report: Report) -> Section:
    """What compressing cost, stage by stage, and when that is paid back."""
    sources = {f"{m.name}/{domain}": m.provenance for m in aggregates.meters(report) for domain in m.domains}
    used = sorted({str(sources.get(k, "unknown source")) for s in report.stages for k in s.energy_j})
    columns = (
        Column("stage", "Stage"),
        Column("elapsed", "Wall time", numeric=True),
        Column("cpu", "CPU time", numeric=True),
        Column("energy", "Energy, gross", ", ".join(used), numeric=True),
    )
    rows = [
        (
            # The stage's number in the run folder is no name.
            Cell(clean(re.sub(r"^\d+-", "", s.stage), _NAME)),
            Cell(numbers.duration(s.elapsed_s)),
            Cell(numbers.duration(s.cpu_s)),
            _joules(s.energy_j),
        )
        for s in report.stages
    ]
    if report.stages:
        # A domain that one stage lacks has no total: a sum over the others would look complete.
        shared = set.intersection(*(set(s.energy_j) for s in report.stages))
        total = {k: sum(s.energy_j[k] for s in report.stages) for k in report.stages[0].energy_j if k in shared}
        rows.append(
            (
                Cell("all stages"),
                Cell(numbers.duration(sum(s.elapsed_s for s in report.stages))),
                Cell(numbers.duration(sum(s.cpu_s for s in report.stages))),
                _joules(total),
            )
        )
    tables = [Table("Cost of compressing, by stage", columns, tuple(rows))] if rows else []
    if report.break_even:
        head = (
            Column("baseline", "Against"),
            Column("metric", "Metric"),
            Column("cost", "Cost of compressing", numeric=True),
            Column("inferences", "Paid back after", "inferences, 95 % interval", numeric=True),
        )
        tables.append(Table("Break-even", head, tuple(_break_even(report, b) for b in report.break_even)))
    text = () if tables else ("No cost was recorded.",)
    return Section("cost", "Cost of compressing and break-even", text, tables=tuple(tables))


def _break_even(report: Report, entry: BreakEven) -> tuple[Cell, ...]:
    estimated = entry.cost.provenance == "estimated"
    metric = clean(entry.metric) + (f", {entry.cost.provenance}" if entry.cost.provenance is not None else "")
    if entry.inferences is None:
        after = Cell("never established", "open", clean(entry.reason))
    elif aggregates.void(report, aggregates.paid_metric(entry)):
        after = Cell("void", "void", "the A/A control failed")
    else:
        after = Cell(numbers.count(entry.inferences, entry.ci95), "estimated" if estimated else "plain")
    cost = entry.cost
    shown = numbers.duration(cost.value) if cost.unit == "s" else numbers.quantity(cost.value, cost.unit, cost.ci95)
    return Cell(named(entry.baseline)), Cell(metric), Cell(shown), after


def meters_table(report: Report) -> Table:
    """Every meter that any arm ran under."""
    columns = (
        Column("meter", "Meter"),
        Column("provenance", "Joules are"),
        Column("domains", "Domains"),
        Column("scope", "Scope"),
        Column("period", "Updates", numeric=True),
        Column("resolution", "Resolution", numeric=True),
        Column("source", "Source"),
    )
    rows = tuple(
        (
            Cell(clean(m.name, 40)),
            Cell(m.provenance, "estimated" if m.provenance == "estimated" else "plain"),
            Cell(clean(", ".join(m.domains), 200)),
            Cell(m.scope),
            Cell("continuous" if m.update_period_s == 0 else f"every {numbers.quantity(m.update_period_s, 's')}"),
            Cell(numbers.quantity(m.resolution_j, "J") if m.resolution_j > 0 else "continuous"),
            Cell(clean(m.source, 200)),
        )
        for m in aggregates.meters(report)
    )
    return Table("Meters", columns, rows)


def rejected_lines(report: Report) -> tuple[str, ...]:
    """Every discarded block with its cause."""
    return tuple(
        f"block {r.block}, {named(r.arm)}: {clean(r.cause, 200)}" for m in report.measurements for r in m.rejected
    )


def protocol_section(report: Report) -> Section:
    """How it was measured."""
    if not report.measurements:
        return Section("protocol", "How it was measured", ("No arm was measured.",))
    plan = report.measurements[0].plan
    finished = sorted({len(m.trials) for m in report.measurements})
    blocks = f"{finished[0]}" if len(finished) == 1 else f"{finished[0]} to {finished[-1]}"
    unsteady = [named(m.arm) for m in report.measurements if not m.steady]
    rejected = rejected_lines(report)
    facts = (
        ("Plan", f"{clean(plan.preset, 20)}: batch {plan.batch}, {plan.threads} thread{'s' * (plan.threads != 1)}"),
        ("Blocks", f"{blocks} finished per arm of {plan.blocks} planned, arms in random ABBA order (seed {plan.seed})"),
        ("Windows", f"at least {numbers.duration(plan.window_s)} each, idle windows {numbers.duration(plan.idle_s)}"),
        (
            "Warm-up",
            f"at most {numbers.duration(plan.warmup_limit_s)}; "
            + (f"NOT steady: {', '.join(unsteady)}" if unsteady else "steady in every arm"),
        ),
        ("Rejected blocks", f"{len(rejected)}, each for a recorded cause and run again" if rejected else "none"),
        ("Foreign load", _foreign(report.measurements)),
        ("Intervals", "95 %, Student's t on the logarithms of paired blocks; the block is the sample"),
    )
    details = (Detail(f"Rejected blocks ({len(rejected)})", rejected),) if rejected else ()
    meters = meters_table(report)
    tables = (meters,) if meters.rows else ()
    text = () if meters.rows else ("No energy meter was read.",)
    return Section("protocol", "How it was measured", text, tables=tables, facts=facts, details=details)


def _foreign(measurements: tuple[Measurement, ...]) -> str:
    loads = [t.foreign_load for m in measurements for t in m.trials]
    return (
        f"up to {numbers.percent(max(loads))} of the cores during a block" if loads else "not known: no block finished"
    )


def machine_section(report: Report) -> Section:
    """Where it was measured."""
    if not report.measurements:
        return Section("machine", "Machine", ("Not recorded.",))
    e = report.measurements[0].environment
    temperature = "not readable" if e.temperature_c is None else f"{e.temperature_c:.0f} °C at the start"
    facts = (
        ("CPU", f"{clean(e.cpu)}, {e.cores} logical core{'s' * (e.cores != 1)}"),
        ("Low-precision instructions", clean(", ".join(e.cpu_features)) or "none known"),
        ("Memory", numbers.quantity(e.memory_bytes, "B")),
        ("GPU", clean(", ".join(e.gpus)) or "none"),
        ("System", clean(e.os)),
        ("Frequency governor", clean(e.governor) if e.governor is not None else "not readable"),
        ("Turbo", "not readable" if e.turbo is None else "on" if e.turbo else "off"),
        ("Virtual machine", clean(e.virtual) if e.virtual is not None else "no, bare metal"),
        ("Temperature", temperature),
        ("Foreign load before", f"{numbers.percent(e.foreign_load)} of the cores"),
        ("Versions", clean(", ".join(f"{k} {v}" for k, v in e.versions.items()), 400)),
    )
    return Section("machine", "Machine", facts=facts)


def _shape(spec: TensorSpec) -> str:
    return f"{clean(spec.name, 40)} {spec.dtype} ({', '.join('any' if n is None else str(n) for n in spec.shape)})"


def repeat_section(report: Report) -> Section:
    """The model, the data, every setting, and the command."""
    model, task = report.model, report.task
    parameters = "not told by the file" if model.parameters is None else numbers.count(model.parameters)
    task_name = "synthetic inputs drawn from the model's signature" if task.synthetic else clean(task.name, 80)
    examples = f"{numbers.count(task.test_examples)} to test, {numbers.count(task.calibration_examples)} to calibrate"
    facts = (
        (
            "Model",
            f"{clean(model.path)}, {model.format}, {numbers.quantity(model.size_bytes, 'B')}, {parameters} parameters",
        ),
        ("Inputs", clean("; ".join(_shape(i) for i in model.inputs), 400)),
        *((("Architecture", clean(model.arch)),) if model.arch is not None else ()),
        ("SHA-256", clean(model.sha256, 80)),
        ("Data", f"{task_name}; {examples} (disjoint)"),
        ("Methods", clean(", ".join(report.methods)) or "none"),
    )
    settings = tuple(f"{clean(k, 80)} = {clean(str(v), 200)}" for k, v in report.settings.items())
    details = [Detail(f"Settings ({len(settings)})", settings)]
    for m in report.measurements:
        if m.role == "control":
            continue
        a = m.artifact
        lines = [
            f"{clean(a.path, 200)}: {a.format}, {numbers.quantity(a.size_bytes, 'B')}, SHA-256 {clean(a.sha256, 80)}"
        ]
        for step in a.steps:
            options = ", ".join(f"{clean(k, 40)}={clean(str(v), 80)}" for k, v in step.settings.items())
            lines.append(f"{clean(step.method, 40)}({options})")
            lines += [clean(note, 300) for note in step.notes]
        opened = ", ".join(f"{clean(k, 60)}={clean(v, 60)}" for k, v in m.runtime.options.items())
        lines.append(
            f"runs on {clean(m.runtime.name, 40)} {clean(m.runtime.version, 40)}, {clean(m.runtime.device, 60)}"
        )
        lines += [f"runtime options: {opened}"] if opened else []
        details.append(Detail(f"{named(m.arm)}: file and steps", tuple(lines)))
    text = tuple(clean(note, 400) for note in report.notes)
    text += () if report.command else ("Run from Python, not from a command line.",)
    return Section("repeat", "Repeat it", text, facts=facts, details=tuple(details), code=clean(report.command, 2000))

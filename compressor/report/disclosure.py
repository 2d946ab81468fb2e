"""The report for disclosure: SCI per inference with its terms, the EU AI Act's energy fields, a table of the arms."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from compressor.report import aggregates, numbers, use
from compressor.report.card import compressing, training_type
from compressor.report.comparing import verdict
from compressor.report.markdown import escape
from compressor.report.metrics import NO_CARBON, intensity_text
from compressor.report.text import clean, named
from compressor.report.view import said, warnings_shown
from compressor.results import Measurement, Quantity, Report

_NAME = 120


def _term(q: Quantity | None) -> dict[str, Any] | None:
    """A quantity at full precision, and as every other format shows it."""
    if q is None:
        return None
    return {
        "value": q.value,
        "unit": q.unit,
        "ci95": None if q.ci95 is None else list(q.ci95),
        "provenance": q.provenance,
        "shown": numbers.with_interval(q.value, q.unit, q.ci95),
    }


def render_sci(report: Report) -> str:
    """Software Carbon Intensity of every arm, per inference, with its terms.

    Source: ISO/IEC 21031:2024.

    Args:
        report: The record; nothing else is looked at.

    Returns:
        JSON. Without a carbon intensity or joules the score is ``null`` with its reason.
    """
    found, usage = use.intensity(report), use.usage(report)
    arms = [_sci(report, m) for m in report.measurements if m.role != "control"]
    unit = "token" if any(m.plan.workload is not None for m in report.measurements) else "inference"
    record = {
        "standard": "ISO/IEC 21031:2024 Software Carbon Intensity (SCI)",
        "formula": "SCI = ((E * I) + M) / R, E times the PUE",
        "headline": said(report),
        "warnings": list(warnings_shown(report)),
        "software": clean(report.model.name, _NAME),
        "boundary": "the worker process's inferences, as the meter's scope has them; network, storage and idle servers "
        "are outside",
        "R": {"value": 1, "unit": unit},
        "I": None
        if found is None
        else {
            "value": found.g_per_kwh,
            "unit": "g CO2e/kWh",
            "place": found.place or None,
            "year": found.year,
            "source": found.source,
            "shown": intensity_text(report),
        },
        "PUE": usage.pue,
        "M": {
            "value": use.embodied_g(report),
            "unit": f"g CO2e/{unit}",
            "source": "none was given, so 0 is assumed" if usage.embodied_g is None else "given by the user",
        },
        "why_no_score": NO_CARBON if found is None else None,
        "arms": arms,
    }
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _sci(report: Report, m: Measurement) -> dict[str, Any]:
    meter = aggregates.primary_meter(report)
    joules = use.energy_of(report, m)
    return {
        "arm": named(m.arm),
        "role": m.role,
        "E": _term(joules) if joules is not None else {"value": None, "why": "no joules of every block"},
        "meter": None if meter is None else clean(meter.name, 40),
        "scope": None if meter is None else meter.scope,
        "O": _term(None if joules is None else use.carbon(report, joules)),
        "SCI": _term(use.sci(report, m)),
    }


def render_annex(report: Report) -> str:
    """The fields of Annex XI of the EU AI Act that a compression run can fill, as Markdown.

    Source: Regulation (EU) 2024/1689, Annex XI, Section 1, point 1 (d) and (e) and point 2 (d) and (e).

    Args:
        report: The record; nothing else is looked at.

    Returns:
        A table per point, each figure with whether it is known (measured), estimated or stated. What only the provider
        knows is left to the provider, and said so.
    """
    lines = [
        "# Energy and computing, as Annex XI of Regulation (EU) 2024/1689 asks",
        f"{escape(clean(report.model.name, _NAME))} · {escape(clean(report.created_utc, 40))}",
        f"**{escape(said(report))}**",
    ]
    if report.warnings:
        lines.append("\n>\n".join(f"> {escape(w)}" for w in warnings_shown(report)))
    lines.append(
        "Known: read from an energy meter. Estimated: CPU time times watts. Stated: by the user. Annex XI is about "
        "general-purpose AI models; whether it applies is the provider's to judge."
    )
    table = ["| Point | Asked for | Here | Status |", "| --- | --- | --- | --- |"]
    table += [f"| {' | '.join(escape(clean(text, 800)) for text in row)} |" for row in _points(report)]
    lines.append("\n".join(table))
    return "\n\n".join(lines) + "\n"


def _known(provenance: str | None) -> str:
    return {"measured": "known (measured)", "estimated": "estimated", "replayed": "replayed from a recording"}.get(
        provenance or "", "unknown"
    )


def _points(report: Report) -> list[tuple[str, str, str, str]]:
    model, arms = report.model, use.pair(report)
    candidate = arms[1] if arms else None
    outputs = candidate.artifact.outputs if candidate is not None else ()
    formats = "; ".join(
        f"{way} {', '.join(f'{one.name} {one.dtype}' for one in found) or 'not told'}"
        for way, found in (("inputs", model.inputs), ("outputs", outputs))
    )
    parameters = "not told by the file" if model.parameters is None else numbers.count(model.parameters)
    now = candidate.artifact.parameters if candidate is not None else None
    after = f", compressed {numbers.count(now)}" if now is not None else ""
    rows = [
        ("1 (d)", "Number of parameters", f"original {parameters}{after}", "known (counted)"),
        ("1 (e)", "Format of inputs and outputs", formats, "known (read from the file)"),
    ]
    usage = use.usage(report)
    seconds = sum(stage.elapsed_s for stage in report.stages)
    cpu = sum(stage.cpu_s for stage in report.stages)
    spent = f"{numbers.duration(seconds)} wall time, {numbers.duration(cpu)} CPU time ({training_type(report)})"
    rows.append(
        ("2 (d)", "Computing and time of compressing", spent if report.stages else "not recorded", "known (timed)")
    )
    if candidate is not None and candidate.artifact.macs is not None:
        work = numbers.quantity(2 * candidate.artifact.macs, "FLOP")
        rows.append(("2 (d)", "Operations of one inference", work, "known (counted)"))
    if usage.training_kwh is None:
        rows.append(("2 (e)", "Energy of training", "not given: the provider has to add it", "unknown"))
    else:
        rows.append(("2 (e)", "Energy of training", numbers.quantity(usage.training_kwh, "kWh"), "stated by the user"))
    cost = compressing(report)
    meter = aggregates.primary_meter(report)
    if cost is None or meter is None:
        rows.append(("2 (e)", "Energy of compressing", "not read in every stage", "unknown"))
    else:
        shown = f"{numbers.quantity(cost[0], 'J')} ({numbers.quantity(cost[0] / 3600, 'Wh')}), {clean(meter.name, 40)}"
        rows.append(("2 (e)", "Energy of compressing", shown, _known(meter.provenance)))
    for m in arms or ():
        joules = use.energy_of(report, m)
        value = "not read" if joules is None else numbers.with_interval(joules.value, joules.unit, joules.ci95)
        status = _known(joules.provenance if joules is not None else None)
        rows.append(("2 (e)", f"Energy per inference, {named(m.arm)}", value, status))
    if meter is not None:
        source = f"{clean(meter.name, 40)}: {clean(meter.source, 200)}; scope {meter.scope}"
        rows.append(("2 (e)", "How the energy was found", source, meter.provenance))
    return rows


_CSV = (
    "arm", "role", "runtime", "score_name", "score", "cpu_time_s", "cpu_time_s_low", "cpu_time_s_high", "wall_time_s",
    "wall_time_s_low", "wall_time_s_high", "energy_j", "energy_j_low", "energy_j_high", "energy_provenance",
    "energy_meter", "p50_s", "p90_s", "p99_s", "peak_memory_bytes", "size_bytes", "parameters", "macs",
    "compute_ops", "low_precision_ops", "precision", "blocks", "rejected_blocks", "against", "verdict_metric",
    "verdict", "verdict_reason",
)  # fmt: skip


def render_csv(report: Report) -> str:
    """The arms as a table for a spreadsheet: SI units in the heads, full precision, empty where there is no figure.

    Args:
        report: The record; nothing else is looked at.

    Returns:
        CSV with a head line. Text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV)
    for m in report.measurements:
        found = _csv_row(report, m)
        writer.writerow([_entry(found.get(name)) for name in _CSV])
    return out.getvalue()


def _entry(value: object) -> object:
    if not isinstance(value, str):
        return "" if value is None else value
    text = clean(value, 200)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _csv_row(report: Report, m: Measurement) -> dict[str, object]:
    row: dict[str, object] = {
        "arm": m.arm,
        "role": m.role,
        "runtime": f"{m.runtime.name} {m.runtime.version}",
        "score_name": m.score and m.score.name,
        "score": m.score and m.score.value,
        "peak_memory_bytes": m.peak_memory_bytes,
        "size_bytes": m.artifact.size_bytes,
        "parameters": m.artifact.parameters,
        "macs": m.artifact.macs,
        "blocks": len(m.trials),
        "rejected_blocks": len(m.rejected),
    }
    joules = use.energy_of(report, m)
    for name, q in (
        ("cpu_time_s", aggregates.cpu_time(report, m).quantity),
        ("wall_time_s", aggregates.wall_time(report, m).quantity),
        ("energy_j", joules),
    ):
        if q is not None:
            row[name] = q.value
            row[f"{name}_low"], row[f"{name}_high"] = q.ci95 or (None, None)
    if joules is not None:
        meter = aggregates.primary_meter(report)
        row["energy_provenance"], row["energy_meter"] = joules.provenance, meter and meter.name
    if m.latency is not None:
        row |= {"p50_s": m.latency.p50_s, "p90_s": m.latency.p90_s, "p99_s": m.latency.p99_s}
    if m.kernels is not None:
        row |= {
            "compute_ops": m.kernels.compute,
            "low_precision_ops": m.kernels.low_precision,
            "precision": m.kernels.precision,
        }
    row |= _csv_verdict(report, m)
    return row


def _csv_verdict(report: Report, m: Measurement) -> dict[str, object]:
    """The verdict on cost against the first baseline that the arm is compared with."""
    comparison = next((c for c in report.comparisons if c.candidate == m.arm), None)
    if comparison is None:
        return {}
    wanted = aggregates.cost_metric(report)
    delta = next((d for d in comparison.deltas if d.metric == wanted), None)
    if delta is None:
        return {"against": comparison.baseline, "verdict": "not measured"}
    cell = verdict(report, delta)
    return {
        "against": comparison.baseline,
        "verdict_metric": delta.metric,
        "verdict": cell.text,
        "verdict_reason": cell.note,
    }

"""The verdict in one sentence, and what has to be known before believing it."""

from __future__ import annotations

from compressor import compare
from compressor.report import aggregates, numbers
from compressor.report.cheapest import cheapest, deciding_meters, time_metric
from compressor.results import Comparison, Delta, Measurement, Report, ScoreDelta

BUSY = 0.15
"""Share of the cores kept busy by others before the run, from which on the reader is warned."""


def headline(report: Report) -> str:
    """Say what was saved against the fastest fp32 arm, how sure that is, and what it cost in score.

    Measured joules come first. Where energy was only estimated the sentence is about CPU time and says that energy was
    not measured.

    Args:
        report: The record; its own headline is not read.

    Returns:
        One sentence without a full stop.
    """
    if not report.comparisons:
        return "Nothing was compared"
    comparison = report.comparisons[0]
    kept = _kept_fp32(report, comparison)
    if kept:
        return "; ".join([kept, *filter(None, [cheapest(report)])])
    parts = [_saving(report, comparison)]
    if comparison.score is not None:
        parts.append(_score(report, comparison.score))
    return "; ".join([*parts, *filter(None, [cheapest(report)])])


def warnings_of(report: Report) -> tuple[str, ...]:
    """What a reader must know before believing a number, loudest first.

    Args:
        report: The record; its own warnings are not read.

    Returns:
        One sentence each.
    """
    found: list[str] = []
    failed = [c for c in report.control if not c.passed and c.ci95 is not None]
    if failed:
        metrics = ", ".join(c.metric for c in failed)
        found.append(f"The A/A control failed on {metrics}: two workers on one file differ, so it has no verdict.")
    for comparison in report.comparisons:
        slower = [d.metric for d in comparison.deltas if d.verdict == "worse"]
        if slower:
            found.append(f"{comparison.candidate} costs more than {comparison.baseline} in {', '.join(slower)}.")
        if comparison.score is not None and comparison.score.verdict == "lost" and comparison is report.comparisons[0]:
            found.append(
                f"{comparison.candidate} lost more {comparison.score.metric} than the margin of "
                f"{numbers.margin(comparison.score.max_loss, comparison.score.unit)}."
            )
    if report.task.synthetic:
        found.append("No data were given: agreement with the original on synthetic inputs was measured, not accuracy.")
    meters = {meter.name: meter for one in report.measurements for meter in one.meters}
    if meters and all(meter.provenance == "estimated" for meter in meters.values()):
        sources = "; ".join(f"{meter.name}: {meter.source}" for meter in meters.values())
        found.append(f"Energy was not measured here, only estimated ({sources}).")
    found += _unread(report)
    for one in report.measurements:
        low = one.kernels
        if one.role == "candidate" and low is not None and 0 < low.low_precision < low.compute:
            left = low.compute - low.low_precision
            found.append(f"{left} of {low.compute} compute ops of {one.arm} stay in fp32.")
    busy = max((one.environment.foreign_load for one in report.measurements), default=0.0)
    if busy > BUSY:
        found.append(f"Other processes kept {numbers.percent(busy)} of the cores busy before the run.")
    return tuple(found)


def _unread(report: Report) -> list[str]:
    """Domains that a meter promised and did not give, one sentence each."""
    absent: dict[str, list[str]] = {}
    for one in report.measurements:
        for meter in one.meters:
            for domain in meter.domains:
                key = f"{meter.name}/{domain}"
                if any(key not in trial.energy_j for trial in one.trials):
                    absent.setdefault(key, []).append(one.arm)
    everywhere = len([m for m in report.measurements if m.trials])
    return [
        f"{key} gave no reading in {'any arm' if len(arms) == everywhere else ', '.join(arms)}: it is left out, not "
        "counted as 0."
        for key, arms in absent.items()
    ]


def _kept_fp32(report: Report, comparison: Comparison) -> str:
    """The outcome of a method that measured that it does not pay; empty for any other."""
    candidate = next(m for m in report.measurements if m.arm == comparison.candidate)
    steps = candidate.artifact.steps
    if not steps or not steps[-1].settings.get("kept_fp32"):
        return ""
    return f"Kept in fp32: {steps[-1].method} does not pay anywhere in this model on {candidate.environment.cpu}"


def _saving(report: Report, comparison: Comparison) -> str:
    against = f"than {comparison.baseline}"
    measured = _measured(report, comparison)
    if measured is not None:
        delta, source = measured
        return _said(delta, "energy per inference", against, f", {source}")
    candidate = next(m for m in report.measurements if m.arm == comparison.candidate)
    timed = next((d for d in comparison.deltas if d.metric == time_metric(candidate)), None)
    if timed is None:
        return f"No saving established against {comparison.baseline}: no block was finished by both"
    energy = "energy was not measured here"
    if aggregates.mixed(report, comparison):
        energy = "energy is not comparable: measured in one arm, estimated in the other"
    return f"{_said(timed, timed.metric, against, '')}; {energy}"


def _measured(report: Report, comparison: Comparison) -> tuple[Delta, str] | None:
    """The first meter total whose joules are real, and how they came about."""
    candidate: Measurement = next(m for m in report.measurements if m.arm == comparison.candidate)
    for meter in deciding_meters(candidate):
        name = compare.energy_metric(meter.name)
        delta = next((d for d in comparison.deltas if d.metric == name), None)
        if delta is not None:
            how = "measured by" if meter.provenance == "measured" else "replayed from a recording by"
            return delta, f"{how} {meter.name}"
    return None


def _said(delta: Delta, what: str, against: str, source: str) -> str:
    change = numbers.change(delta.ratio, delta.ci95)
    if delta.verdict == "better":
        return f"{change} {what} {against}{source}"
    if delta.verdict == "worse":
        return f"Costs more: {change} {what} {against}{source}"
    return f"No saving established: {change} {what} {against}{source} ({delta.reason})"


def _score(report: Report, score: ScoreDelta) -> str:
    name = "agreement on synthetic inputs" if report.task.synthetic else score.metric
    before, after = (numbers.quantity(value, score.unit) for value in (score.baseline, score.candidate))
    margin = numbers.margin(score.max_loss, score.unit)
    verdict = {
        "retained": f"retained within {margin}",
        "lost": f"lost more than {margin}",
        "not established": f"not established to be within {margin}",
    }[score.verdict]
    return f"{name} {before} → {after}, {verdict}"

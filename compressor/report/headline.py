"""The verdict in one sentence, and what has to be known before believing it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from compressor import compare
from compressor.report import aggregates, comparing, numbers
from compressor.report.cheapest import cheapest, deciding_meters
from compressor.report.text import clean, named
from compressor.results import Comparison, Confusion, Delta, MeterInfo, Report, ScoreDelta

BUSY = 0.15
"""Share of the cores kept busy by others before the run, from which on the reader is warned."""

_NAME = 60


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
    kept = kept_fp32(report, comparison)
    if kept and _methods(report, comparison) == 1:
        return "; ".join([f"Kept in fp32: {kept}", *filter(None, [cheapest(report)])])
    parts = [_saving(report, comparison)]
    if comparison.score is not None:
        parts.append(_score(report, comparison.score))
    parts += [f"kept in fp32: {kept}"] if kept else []
    return "; ".join([*parts, *filter(None, [cheapest(report)])])


def warnings_of(report: Report) -> tuple[str, ...]:
    """What a reader must know before believing a number, loudest first.

    Args:
        report: The record; its own warnings are not read.

    Returns:
        One sentence each.
    """
    found: list[str] = []
    failed = aggregates.failed_controls(report)
    if failed:
        metrics = ", ".join(c.metric for c in failed)
        it = "it has" if len(failed) == 1 else "they have"
        found.append(f"The A/A control failed on {metrics}: two workers on one file differ, so {it} no verdict.")
    found += _disagreeing(report)
    for comparison in report.comparisons:
        slower = _whole([d.metric for d in comparison.deltas if d.verdict == "worse"])
        if slower:
            found.append(f"{comparison.candidate} costs more than {comparison.baseline} in {', '.join(slower)}.")
        if comparison.score is not None and comparison.score.verdict == "lost" and comparison is report.comparisons[0]:
            margin = numbers.margin(comparison.score.max_loss, comparison.score.unit)
            found.append(f"{comparison.candidate}: {comparison.score.metric} is worse by more than {margin}.")
    if report.task.synthetic:
        found.append("No data were given: agreement with the original on synthetic inputs was measured, not accuracy.")
    meters = aggregates.meters(report)
    if meters and all(meter.provenance == "estimated" for meter in meters):
        sources = "; ".join(f"{meter.name}: {meter.source}" for meter in meters)
        found.append(f"Energy was not measured here, only estimated ({sources}).")
    found += _unread(report)
    for one in report.measurements:
        low = one.kernels
        if one.role == "candidate" and low is not None and 0 < low.low_precision < low.compute:
            left = low.compute - low.low_precision
            found.append(f"{left} of {low.compute} compute ops of {one.arm} stay{'s' * (left == 1)} in fp32.")
        if one.role == "candidate" and one.artifact.steps and one.artifact.steps[-1].settings.get("emulated"):
            found.append(one.artifact.steps[-1].notes[0])
    busy = max((one.environment.foreign_load for one in report.measurements), default=0.0)
    if busy > BUSY:
        found.append(f"Other processes kept {numbers.percent(busy)} of the cores busy before the run.")
    return tuple(found)


def at_chance(confusion: Confusion | None) -> tuple[str, ...]:
    """That the original itself knows no more than which class is the commonest: "retained" then means nothing.

    Args:
        confusion: What moved between the original and the result; ``None`` for other tasks.

    Returns:
        One sentence, or none.
    """
    if confusion is None or len(confusion.classes) < 2:
        return ()
    total = sum(one.examples for one in confusion.classes)
    right = sum(one.right_before for one in confusion.classes)
    commonest = max(confusion.classes, key=lambda one: one.examples)
    if right > commonest.examples:
        return ()
    return (
        f"The original itself is right on {numbers.percent(right / total)} of the {confusion.counted}, "
        f"no better than always answering {clean(commonest.name, _NAME)!r}: see that labels and preprocessing are "
        "those of its training.",
    )


def kept_fp32(report: Report, comparison: Comparison) -> str:
    """That the last method measured that it does not pay, and left the model as it was; empty for any other."""
    candidate = next(m for m in report.measurements if m.arm == comparison.candidate)
    steps = candidate.artifact.steps
    if not steps or not steps[-1].settings.get("kept_fp32"):
        return ""
    cpu = clean(candidate.environment.cpu, _NAME)
    return f"{clean(steps[-1].method, _NAME)} does not pay anywhere in this model on {cpu}"


def _methods(report: Report, comparison: Comparison) -> int:
    """How many methods made the candidate."""
    candidate = next(m for m in report.measurements if m.arm == comparison.candidate)
    return sum(step.method not in ("load", "export") for step in candidate.artifact.steps)


def _whole(metrics: Sequence[str]) -> list[str]:
    """Metrics without those that a meter's total among them stands for: its domains, and what is above idle."""

    def meter(metric: str) -> str:
        return next(iter(re.findall(r"\(([^/)]*)", metric)), "")

    totals = {compare.energy_metric(meter(metric)) for metric in metrics} & set(metrics)
    return [m for m in metrics if m in totals or compare.energy_metric(meter(m)) not in totals]


def _disagreeing(report: Report) -> list[str]:
    """That two meters of the main comparison do not say the same."""
    for comparison in report.comparisons[:1]:
        found = _by_meter(report, comparison)
        ends = [delta.ci95 for _, delta in found if delta.ci95 is not None]
        apart = any(a[1] < b[0] for a in ends for b in ends)
        if len({delta.verdict for _, delta in found}) > 1 or apart:
            said = "; ".join(
                f"{meter.name} {numbers.change(delta.ratio, delta.ci95)}, {delta.verdict}" for meter, delta in found
            )
            return [f"The meters disagree on energy per inference: {said}. The headline is by {found[0][0].name}."]
    return []


def _by_meter(report: Report, comparison: Comparison) -> list[tuple[MeterInfo, Delta]]:
    """Every meter whose joules are real, the deciding one first, with what it says of a comparison."""
    candidate = next(m for m in report.measurements if m.arm == comparison.candidate)
    deltas = {delta.metric: delta for delta in comparison.deltas}
    names = [(meter, compare.energy_metric(meter.name)) for meter in deciding_meters(candidate)]
    return [(meter, deltas[name]) for meter, name in names if name in deltas]


def _unread(report: Report) -> list[str]:
    """Domains that a meter promised and did not give, one sentence each."""
    absent: dict[str, list[str]] = {}
    for one in report.measurements:
        for meter in one.meters:
            for domain in meter.domains:
                key = f"{meter.name}/{domain}"
                missing = [key not in trial.energy_j for trial in one.trials]
                if any(missing):
                    absent.setdefault(key, []).append(one.arm if all(missing) else f"some blocks of {one.arm}")
    everywhere = [m.arm for m in report.measurements if m.trials]
    return [
        f"{key} gave no reading in {'any arm' if arms == everywhere else ', '.join(arms)}: it is left out, not "
        "counted as 0."
        for key, arms in absent.items()
    ]


def _saving(report: Report, comparison: Comparison) -> str:
    against = named(comparison.baseline)
    found = aggregates.energy_delta(report, comparison)
    if found is not None and found[1].provenance != "estimated":
        delta, meter = found
        how = "measured by" if meter.provenance == "measured" else "replayed from a recording by"
        return _said(report, delta, "energy per inference", against, f", {how} {clean(meter.name, _NAME)}")
    timed = next((d for d in comparison.deltas if d.metric == aggregates.time_name(report)), None)
    if timed is None:
        return f"No saving established against {named(comparison.baseline)}: no block was finished by both"
    unlike = aggregates.unlike_energy(report, comparison)
    energy = f"energy is not comparable: {unlike}" if unlike else "energy was not measured here"
    return f"{_said(report, timed, timed.metric, against, '')}; {energy}"


def _said(report: Report, delta: Delta, what: str, against: str, source: str) -> str:
    change = numbers.change(delta.ratio, delta.ci95)
    than = numbers.joined(change, against)
    verdict = comparing.verdict(report, delta)
    if verdict.text == "better":
        return f"{change} {what} {than}{source}"
    if verdict.text == "worse":
        return f"Costs more: {change} {what} {than}{source}"
    return f"No saving established: {change} {what} {than}{source} ({delta.reason or verdict.note})"


def _score(report: Report, score: ScoreDelta) -> str:
    name = "agreement on synthetic inputs" if report.task.synthetic else comparing.score_name(report)
    before, after = (numbers.quantity(value, score.unit) for value in (score.baseline, score.candidate))
    margin = numbers.margin(score.max_loss, score.unit)
    verdict = {
        "retained": f"retained within {margin}",
        "lost": f"{'lost' if score.unit == 'fraction' else 'worse by'} more than {margin}",
        "not established": f"not established to be within {margin}",
    }[score.verdict]
    return f"{name} {before} → {after}, {verdict}"

"""What a run is decided by, and which arm is cheapest where a model was run on several runtimes. Pure."""

from __future__ import annotations

from compressor import compare
from compressor.report import numbers
from compressor.report.text import named
from compressor.results import Delta, Measurement, MeterInfo, Report


def on_gpu(arm: Measurement) -> bool:
    """Whether an arm ran on a GPU, where the CPU's time says little."""
    return arm.runtime.device != "cpu"


def deciding_meters(arm: Measurement) -> list[MeterInfo]:
    """The meters whose joules are real, in the order in which they decide: on a GPU its own comes first."""
    real = [meter for meter in arm.meters if meter.provenance != "estimated"]
    return sorted(real, key=lambda meter: meter.name != "nvml") if on_gpu(arm) else real


def time_metric(arm: Measurement) -> str:
    """What decides where no energy was measured: CPU time, or on a GPU the time on the clock."""
    return compare.WALL_TIME if on_gpu(arm) else compare.CPU_TIME


def cheapest(report: Report) -> str:
    """Name the cheapest arm whose score is kept, and say whether the second is established to cost more.

    Measured joules decide, or time where energy was only estimated. Only the point estimate of the score has to be
    within the margin: the table shows each arm's.

    Args:
        report: The record; its own headline is not read.

    Returns:
        A clause, empty unless some file was run on several runtimes.
    """
    arms = [m for m in report.measurements if m.role != "control" and m.trials]
    runtimes: dict[tuple[str, str], set[str]] = {}
    for arm in arms:
        runtimes.setdefault((arm.artifact.path, arm.artifact.format), set()).add(arm.runtime.name)
    if not report.comparisons or all(len(names) == 1 for names in runtimes.values()):
        return ""
    base = next(m for m in arms if m.arm == report.comparisons[0].baseline)
    margin = float(report.settings.get("max_loss") or 0.0)
    scores = {arm.arm: compare.compare(base, arm, report.control, margin).score for arm in arms}
    kept = [arm for arm in arms if (score := scores[arm.arm]) is None or score.loss <= margin]
    deltas = {arm.arm: _delta(base, arm, report) for arm in kept}
    ordered = [arm for arm in kept if deltas[arm.arm] is not None]
    ordered.sort(key=lambda arm: _ratio(deltas[arm.arm]))
    if len(ordered) < 2:
        return ""
    first, second = ordered[:2]
    names = [named(arm.arm) for arm in (first, second)]
    gap = _delta(first, second, report)
    if gap is None or gap.verdict != "worse":
        return f"cheapest: {names[0]}, not established against {names[1]}"
    ahead = deltas[first.arm]
    if first is base or ahead is None:
        return f"cheapest: {names[0]}; {names[1]} takes {numbers.change(gap.ratio, gap.ci95)} {_what(gap)}"
    change = numbers.change(ahead.ratio, ahead.ci95)
    return f"cheapest: {names[0]}, {change} {_what(ahead)} {numbers.joined(change, named(base.arm))}"


def _what(delta: Delta) -> str:
    return "energy" if delta.metric.startswith("energy") else delta.metric.removesuffix(" per inference")


def _ratio(delta: Delta | None) -> float:
    return float("inf") if delta is None else delta.ratio


def _delta(baseline: Measurement, candidate: Measurement, report: Report) -> Delta | None:
    """The metric that decides, of two arms; ``None`` where they share no block."""
    deltas = {delta.metric: delta for delta in compare.compare(baseline, candidate, report.control).deltas}
    names = [*(compare.energy_metric(meter.name) for meter in deciding_meters(candidate)), time_metric(candidate)]
    return next((deltas[name] for name in names if name in deltas), None)

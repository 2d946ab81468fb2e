"""Finding one's way in a Report: which arm, which mean, which joules, which control."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from compressor.compare import CPU_TIME, SIZE, WALL_TIME, energy_metric, total_domains
from compressor.report import numbers
from compressor.report.cheapest import deciding_meters, time_metric
from compressor.results import (
    BreakEven,
    Comparison,
    Control,
    Delta,
    Measurement,
    MeterInfo,
    Provenance,
    Quantity,
    Report,
    Score,
    Trial,
)
from compressor.stats import geometric_mean, ratio_interval

_TRUST: tuple[Provenance, ...] = ("measured", "replayed", "estimated")
_Z95 = 1.959964


@dataclass(frozen=True)
class Amount:
    """A mean, or why there is none.

    Attributes:
        quantity: The mean; ``None`` if it could not be had.
        why: Why not, or what is incomplete about it; empty if nothing is.
    """

    quantity: Quantity | None
    why: str = ""


def arm(report: Report, name: str) -> Measurement | None:
    """The measurement of an arm; ``None`` if no arm has that name."""
    return next((m for m in report.measurements if m.arm == name), None)


def meters(report: Report) -> tuple[MeterInfo, ...]:
    """Every meter that any arm ran under, once per name and provenance, the most trustworthy first."""
    found = {(meter.name, meter.provenance): meter for m in report.measurements for meter in m.meters}
    decides = [meter.name for m in report.measurements for meter in deciding_meters(m)]
    order = list(dict.fromkeys(decides))

    def rank(meter: MeterInfo) -> tuple[int, int]:
        place = order.index(meter.name) if meter.name in order else len(order)
        return _TRUST.index(meter.provenance), place

    return tuple(sorted(found.values(), key=rank))


def meter_of(measurement: Measurement, name: str) -> MeterInfo | None:
    """An arm's meter of that name."""
    return next((meter for meter in measurement.meters if meter.name == name), None)


def best_meter(measurement: Measurement) -> MeterInfo | None:
    """The most trustworthy meter that gave an arm a reading."""
    read = {key for t in measurement.trials for key in t.energy_j}
    found = [m for m in measurement.meters if any(f"{m.name}/{domain}" in read for domain in m.domains)]
    return min(found, key=lambda meter: _TRUST.index(meter.provenance), default=None)


def read_meters(report: Report) -> tuple[MeterInfo, ...]:
    """The meters that gave at least one reading in some arm."""
    read = {key for m in report.measurements for t in m.trials for key in t.energy_j}
    return tuple(m for m in meters(report) if any(f"{m.name}/{domain}" in read for domain in m.domains))


def primary_meter(report: Report) -> MeterInfo | None:
    """The meter to show first: the most trustworthy one that the main comparison holds, else that was read at all."""
    read = read_meters(report)
    held = {delta.metric for comparison in report.comparisons[:1] for delta in comparison.deltas}
    return next((m for m in read if energy_metric(m.name) in held), next(iter(read), None))


def energy_delta(report: Report, comparison: Comparison) -> tuple[Delta, MeterInfo] | None:
    """What a comparison says of energy, by the meter shown first."""
    meter = primary_meter(report)
    if meter is None:
        return None
    delta = next((d for d in comparison.deltas if d.metric == energy_metric(meter.name)), None)
    return None if delta is None else (delta, meter)


def unlike_energy(report: Report, comparison: Comparison) -> str:
    """Why joules that were measured (or replayed) cannot be compared; empty if they can, or if there are none."""
    found = energy_delta(report, comparison)
    if found is not None and found[1].provenance != "estimated":
        return ""
    arms = [m for name in (comparison.baseline, comparison.candidate) if (m := arm(report, name)) is not None]
    best = [(m, meter) for m in arms if (meter := best_meter(m)) is not None]
    kinds = sorted({meter.provenance for _, meter in best}, key=_TRUST.index)
    if not best or kinds == ["estimated"]:
        return ""
    if len(kinds) > 1:
        return f"{kinds[0]} in one arm, {kinds[1]} in the other"
    if len(best) == 1:
        return f"{kinds[0]} in {best[0][0].arm} alone"
    if best[0][1].name != best[1][1].name:
        return "each arm has another meter"
    return "not read in every block"


def _recorded(report: Report, name: str, metric: str) -> Quantity | None:
    """The mean that a comparison already holds."""
    for comparison in report.comparisons:
        for delta in comparison.deltas:
            if delta.metric == metric and comparison.baseline == name:
                return delta.baseline
            if delta.metric == metric and comparison.candidate == name:
                return delta.candidate
    return None


def _mean(
    values: Iterable[float | None], unit: str, source: Provenance | None, known: Quantity | None = None
) -> Amount:
    """Geometric mean over the blocks that have a value; what a comparison already says wins."""
    trials = list(values)
    read = [value for value in trials if value is not None]
    if not trials:
        return Amount(None, "no finished block")
    if not read:
        return Amount(None, "not read")
    why = "" if len(read) == len(trials) else f"read in {len(read)} of {len(trials)} blocks"
    if known is not None:
        return Amount(known, why)
    if any(value < 0 for value in read):
        return Amount(None, "below idle in some blocks")
    if not all(read):
        return Amount(None, "nothing that the meter could resolve")
    value, interval = geometric_mean(read)
    return Amount(Quantity(value, unit, interval, source), why)


def cpu_time(report: Report, measurement: Measurement) -> Amount:
    """CPU seconds per inference of an arm."""
    known = _recorded(report, measurement.arm, CPU_TIME)
    return _mean((t.cpu_s / t.inferences for t in measurement.trials), "s", None, known)


def time_name(report: Report) -> str:
    """What stands for cost where no energy was measured: CPU time, or on a GPU the time on the clock."""
    arms = [arm(report, c.candidate) for c in report.comparisons[:1]] or list(report.measurements[:1])
    return CPU_TIME if not arms or arms[0] is None else time_metric(arms[0])


def trial_time(report: Report) -> Callable[[Trial], float]:
    """Seconds per inference of a trial, in what :func:`time_name` says."""
    if time_name(report) == WALL_TIME:
        return lambda trial: trial.elapsed_s / trial.inferences
    return lambda trial: trial.cpu_s / trial.inferences


def time_cost(report: Report, measurement: Measurement) -> Amount:
    """Seconds per inference of an arm, in what :func:`time_name` says."""
    return (wall_time if time_name(report) == WALL_TIME else cpu_time)(report, measurement)


def wall_time(report: Report, measurement: Measurement) -> Amount:
    """Wall-clock seconds per inference of an arm."""
    known = _recorded(report, measurement.arm, WALL_TIME)
    return _mean((t.elapsed_s / t.inferences for t in measurement.trials), "s", None, known)


def _joules_over(keys: tuple[str, ...], idle_w: float = 0.0) -> Callable[[Trial], float | None]:
    """Joules of a trial over some domains; ``None`` if it lacks one of them."""

    def of(trial: Trial) -> float | None:
        if any(key not in trial.energy_j for key in keys):
            return None
        return sum(trial.energy_j[key] for key in keys) - idle_w * trial.elapsed_s

    return of


def joules_of(meter: MeterInfo) -> Callable[[Trial], float | None]:
    """Gross joules of a trial by a meter's total; ``None`` if one of its domains was not read."""
    return _joules_over(total_domains(meter))


def measured_meter(report: Report) -> MeterInfo | None:
    """The meter whose joules stand for cost: not estimated, and read in every block of every arm.

    Where there is none, CPU time stands for cost: measured and estimated joules never share an axis.
    """
    meter = primary_meter(report)
    if meter is None or meter.provenance == "estimated":
        return None
    run = [m for m in report.measurements if m.trials]
    own = [meter_of(m, meter.name) for m in run]
    alike = all(one is not None and one.provenance == meter.provenance for one in own)
    return meter if alike and not any(energy(report, m, meter).why for m in run) else None


def cost_metric(report: Report) -> str:
    """Name of the metric that stands for cost."""
    meter = measured_meter(report)
    return time_name(report) if meter is None else energy_metric(meter.name)


def per(value: float | None, divisor: float) -> float | None:
    """A quotient of something that may be absent."""
    return None if value is None else value / divisor


def energy(
    report: Report, measurement: Measurement, meter: MeterInfo, domain: str | None = None, *, above_idle: bool = False
) -> Amount:
    """Joules per inference of an arm: of a meter's total or of one domain; gross, or above the idle power."""
    keys = total_domains(meter) if domain is None else (f"{meter.name}/{domain}",)
    idle_w = 0.0
    if above_idle:
        if meter.scope == "process":
            return Amount(None, "counts no idling")
        if any(key not in measurement.idle_power_w for key in keys):
            return Amount(None, "idle power not read")
        idle_w = sum(measurement.idle_power_w[key] for key in keys)
    known = _recorded(report, measurement.arm, energy_metric(meter.name, domain, above_idle=above_idle))
    of = _joules_over(keys, idle_w)
    return _mean((per(of(t), t.inferences) for t in measurement.trials), "J", meter.provenance, known)


def power(measurement: Measurement, meter: MeterInfo, domain: str | None = None) -> Amount:
    """Mean watts of an arm, gross."""
    of = _joules_over(total_domains(meter) if domain is None else (f"{meter.name}/{domain}",))
    return _mean((per(of(t), t.elapsed_s) for t in measurement.trials if t.elapsed_s > 0), "W", meter.provenance)


def runtime_gain(report: Report) -> tuple[Measurement, Measurement, Quantity] | None:
    """What the runtime alone is worth: time of one uncompressed arm over another's on a different runtime.

    Returns:
        The slower arm, the faster arm and the ratio faster/slower over paired blocks; ``None`` with one runtime only
        or with no blocks.
    """
    baselines = [m for m in report.measurements if m.role == "baseline" and m.trials]
    of = trial_time(report)
    for slow in baselines:
        for fast in baselines:
            before = {t.block: of(t) for t in slow.trials if of(t) > 0}
            after = {t.block: of(t) for t in fast.trials if of(t) > 0}
            blocks = sorted(before.keys() & after.keys())
            if slow.runtime.name == fast.runtime.name or not blocks:
                continue
            value, interval = ratio_interval([before[b] for b in blocks], [after[b] for b in blocks])
            if value <= 1:
                return slow, fast, Quantity(value, "", interval)
    return None


def control_for(report: Report, metric: str, baseline: str) -> Control | None:
    """The A/A control of a metric: the baseline's own twin if it has one, else another's."""
    same = [c for c in report.control if c.metric == metric]
    return next((c for c in same if c.arm == baseline), same[0] if same else None)


def failed_controls(report: Report) -> tuple[Control, ...]:
    """The A/A controls whose interval excludes 1."""
    return tuple(c for c in report.control if not c.passed and c.ci95 is not None)


def void(report: Report, metric: str) -> bool:
    """Whether the A/A control failed on a metric, so that no verdict on it counts; those on others do."""
    return any(control.metric == metric for control in failed_controls(report))


def unfinished_controls(report: Report) -> tuple[Control, ...]:
    """The A/A controls that have too few blocks for an interval."""
    return tuple(c for c in report.control if c.ci95 is None)


def repeats_total(report: Report, metric: str) -> bool:
    """Whether a metric is that of the one domain that a meter's total is made of."""
    totals = [(meter, total_domains(meter)) for meter in meters(report)]
    return any(
        metric == energy_metric(meter.name, keys[0].removeprefix(f"{meter.name}/"))
        for meter, keys in totals
        if len(keys) == 1
    )


def paid_metric(entry: BreakEven) -> str:
    """The metric per inference that a break-even is reckoned in."""
    return CPU_TIME if entry.cost.unit == "s" else entry.metric.replace("energy (", "energy per inference (", 1)


def is_exact(delta: Delta) -> bool:
    """Whether a metric is counted rather than sampled: noise and controls do not touch a file's size."""
    return delta.metric == SIZE


def sources(delta: Delta) -> frozenset[Provenance]:
    """Where both arms' joules come from; empty for what is not joules."""
    return frozenset(p for p in (delta.baseline.provenance, delta.candidate.provenance) if p is not None)


def compares_compression(report: Report, comparison: Comparison) -> bool:
    """Whether both arms ran on the same runtime and device, so that compression alone makes the difference."""
    baseline, candidate = arm(report, comparison.baseline), arm(report, comparison.candidate)
    if baseline is None or candidate is None:
        return False
    return (baseline.runtime.name, baseline.runtime.device) == (candidate.runtime.name, candidate.runtime.device)


def score_text(score: Score) -> str:
    """A score to the digits that its interval supports."""
    return numbers.quantity(score.value, score.unit, score_interval(score))


def score_interval(score: Score) -> tuple[float, float] | None:
    """95 % interval of one arm's score over the draw of its examples.

    Wilson's interval for a share of right answers (Wilson, Journal of the American Statistical Association 22, 1927),
    the normal interval of a mean else.

    Args:
        score: The score.

    Returns:
        The interval; ``None`` where the metric has no value per example, or fewer than two.
    """
    values = score.per_example
    if values is None or len(values) < 2:
        return None
    count = len(values)
    mean = sum(values) / count
    if all(v in (0, 1) for v in values):
        centre = (mean + _Z95**2 / (2 * count)) / (1 + _Z95**2 / count)
        half = _Z95 / (1 + _Z95**2 / count) * (mean * (1 - mean) / count + _Z95**2 / (4 * count**2)) ** 0.5
        return centre - half, centre + half
    half = _Z95 * (sum((v - mean) ** 2 for v in values) / (count - 1) / count) ** 0.5
    return mean - half, mean + half

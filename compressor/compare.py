"""Two measurements side by side: deltas, verdicts, break-even, and the one sentence that says it. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from compressor import stats
from compressor.errors import RecipeError
from compressor.results import (
    BreakEven,
    Comparison,
    Control,
    Delta,
    Measurement,
    MeterInfo,
    Provenance,
    Quantity,
    StageCost,
    Trial,
    Verdict,
)
from compressor.scoring import score_delta

CPU_TIME = "CPU time per inference"
WALL_TIME = "wall time per inference"
SIZE = "size"
ABOVE_IDLE = "energy above idle"
FEWEST_BLOCKS = 3
"""A verdict needs at least so many blocks: two give an interval, but one that hangs on a single difference."""

Metric = Callable[[Trial], float | None]
Estimate = Callable[[Sequence[float], Sequence[float]], tuple[float, stats.Interval | None]]


def energy_metric(meter: str, domain: str | None = None, *, above_idle: bool = False) -> str:
    """Name of an energy metric: of a meter's total, or of one of its domains; gross, or above the idle power."""
    what = meter if domain is None else f"{meter}/{domain}"
    return f"{ABOVE_IDLE if above_idle else 'energy'} per inference ({what})"


def total_domains(meter: MeterInfo) -> tuple[str, ...]:
    """Keys of the domains that add up to the meter's total."""
    return tuple(f"{meter.name}/{domain}" for domain in meter.total or meter.domains)


def comparable(baseline: Measurement, candidate: Measurement) -> tuple[str, ...]:
    """Name what forbids comparing two measurements; empty if nothing does.

    Args:
        baseline: One measurement.
        candidate: The other.

    Returns:
        The keys that differ and must not, e.g. ``environment.cpu`` or ``plan.batch``.
    """
    return tuple(differences(baseline, candidate))


def differences(baseline: Measurement, candidate: Measurement) -> Mapping[str, tuple[object, object]]:
    """What forbids comparing two measurements: each key of :func:`comparable` with its two values."""
    keys = {
        "environment.cpu": lambda m: m.environment.cpu,
        "environment.cores": lambda m: m.environment.cores,
        "environment.gpus": lambda m: m.environment.gpus,
        "environment.governor": lambda m: m.environment.governor,
        "plan.batch": lambda m: m.plan.batch,
        "plan.threads": lambda m: m.plan.threads,
        "plan.workload": lambda m: m.plan.workload,
        "runtime.device": lambda m: m.runtime.device,
        "artifact.inputs": lambda m: [(i.dtype, i.shape[1:]) for i in m.artifact.inputs],
        # An estimate's source names its watts: other watts are other joules.
        "meters": lambda m: [
            (i.name, i.provenance, i.scope, i.source if i.provenance == "estimated" else "") for i in m.meters
        ],
        "score.name": lambda m: m.score and m.score.name,
    }
    values = {key: (of(baseline), of(candidate)) for key, of in keys.items()}
    return {key: pair for key, pair in values.items() if pair[0] != pair[1]}


def require_margin(max_loss: float) -> None:
    """See that a margin can be held against a loss.

    Args:
        max_loss: How much score may be lost, in the score's unit.

    Raises:
        RecipeError: It is negative, or no finite number.
    """
    if not 0 <= max_loss < math.inf:
        raise RecipeError(f"must be a number of 0 or more, not {max_loss:g}", where="--max-loss")


def compare(
    baseline: Measurement, candidate: Measurement, controls: Sequence[Control], max_loss: float = 0.01
) -> Comparison:
    """Every metric that both arms have, with its interval and verdict.

    Args:
        baseline: The arm to beat.
        candidate: The compressed arm, measured in the same blocks.
        controls: The run's A/A controls; a metric without a passed one gets no verdict.
        max_loss: How much score the user is ready to lose, in the score's unit.

    Returns:
        The comparison; domains that only one arm has are left out.
    """

    def paired(of: Metric) -> tuple[list[float], list[float]]:
        pairs = _paired(baseline, candidate, of)
        return [b for b, _ in pairs], [c for _, c in pairs]

    metrics = _metrics(baseline, candidate)
    return _comparison(baseline, candidate, metrics, paired, stats.ratio_interval, controls, max_loss)


def compare_apart(
    baseline: Measurement, candidate: Measurement, controls: Sequence[Control], max_loss: float = 0.01
) -> Comparison:
    """Every metric of two arms that were measured in separate runs, with its interval and verdict.

    Their blocks are not paired, so the interval is Welch's. It holds the scatter within each run; what changed on the
    machine between the two runs moves the ratio and is in no interval. Energy above idle is left out, as each run has
    an idle power of its own.

    Args:
        baseline: The arm to beat.
        candidate: The arm of the other run.
        controls: What the A/A controls of both runs allow, see :func:`stricter`.
        max_loss: How much score may be lost, in the score's unit.

    Returns:
        The comparison; the score only where both arms have one.
    """

    def apart(of: Metric) -> tuple[list[float], list[float]]:
        return _values(baseline, of), _values(candidate, of)

    metrics = [metric for metric in _metrics(baseline, candidate) if not metric[0].startswith(ABOVE_IDLE)]
    return _comparison(baseline, candidate, metrics, apart, stats.unpaired_ratio_interval, controls, max_loss)


def _comparison(
    baseline: Measurement,
    candidate: Measurement,
    metrics: Sequence[tuple[str, Metric, Provenance | None]],
    values_of: Callable[[Metric], tuple[list[float], list[float]]],
    estimate: Estimate,
    controls: Sequence[Control],
    max_loss: float,
) -> Comparison:
    by_metric = {control.metric: control for control in controls}
    deltas = []
    for name, of, provenance in metrics:
        values = values_of(of)
        if all(values):
            deltas.append(_delta(name, values, estimate, by_metric.get(name), provenance))
    deltas.append(_size_delta(baseline, candidate))
    score = None
    if baseline.score is not None and candidate.score is not None:
        score = score_delta(baseline.score, candidate.score, max_loss)
    return Comparison(baseline.arm, candidate.arm, tuple(deltas), score)


def stricter(one: Sequence[Control], other: Sequence[Control]) -> tuple[Control, ...]:
    """What two runs' A/A controls allow together: per metric the one that failed, else the larger detection limit.

    Args:
        one: The controls of one run.
        other: Those of the other.

    Returns:
        One per metric that both runs have.
    """
    others = {control.metric: control for control in other}
    return tuple(
        max(control, others[control.metric], key=lambda c: (not c.passed, c.detection_limit or 0.0))
        for control in one
        if control.metric in others
    )


def quantities(measurement: Measurement) -> Mapping[str, Quantity]:
    """Every metric of one arm as a mean over its blocks, with its interval; those that could not be read are absent."""
    found = {}
    for name, of, provenance in _metrics(measurement, measurement):
        if values := _values(measurement, of):
            found[name] = Quantity(*_mean(values, _unit(name)), provenance)
    return found


def control(original: Measurement, twin: Measurement) -> tuple[Control, ...]:
    """Judge the A/A control: a second worker on the same file must not differ.

    Args:
        original: A baseline.
        twin: The second worker on the baseline's own file.

    Returns:
        One control per metric that both have.
    """
    found = []
    for name, of, _ in _metrics(original, twin):
        pairs = _paired(original, twin, of)
        if not pairs:
            continue
        ratio, interval = stats.ratio_interval([b for b, _ in pairs], [c for _, c in pairs])
        # The half-width on the log scale, where both halves are alike, said as a fraction.
        limit = None if interval is None else interval[1] / ratio - 1
        holds = interval is not None and interval[0] <= 1 <= interval[1]
        found.append(Control(original.arm, name, ratio, interval, limit, holds))
    return tuple(found)


def break_even(baseline: Measurement, candidate: Measurement, stages: Sequence[StageCost]) -> tuple[BreakEven, ...]:
    """After how many inferences the compression is paid back: ``N* = E_compress / (e_baseline - e_candidate)``.

    The interval is that of the difference per inference; the cost is taken as it was counted.

    Args:
        baseline: The arm to beat.
        candidate: The compressed arm.
        stages: What compressing cost; a domain that not every stage has gives no break-even.

    Returns:
        One for CPU time and one per meter.
    """
    found = []
    cpu_s = sum(stage.cpu_s for stage in stages)
    pairs = _paired(baseline, candidate, _cpu)
    if stages and pairs:
        found.append(_paid_back(baseline.arm, "CPU time", Quantity(cpu_s, "s", None), pairs))
    for meter in _shared_meters(baseline, candidate):
        keys = total_domains(meter)
        pairs = _paired(baseline, candidate, _energy(keys))
        if stages and pairs and all(key in stage.energy_j for stage in stages for key in keys):
            joules = sum(stage.energy_j[key] for stage in stages for key in keys)
            cost = Quantity(joules, "J", None, meter.provenance)
            found.append(_paid_back(baseline.arm, f"energy ({meter.name})", cost, pairs))
    return tuple(found)


def fastest_first(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Measurements by wall time per inference, those without a finished block last."""

    def seconds(one: Measurement) -> float:
        return sum(t.elapsed_s for t in one.trials) / sum(t.inferences for t in one.trials) if one.trials else 1e300

    return sorted(measurements, key=seconds)


# --- parts ---------------------------------------------------------------------------------------------------------


def _cpu(trial: Trial) -> float | None:
    return trial.cpu_s / trial.inferences


def _wall(trial: Trial) -> float | None:
    return trial.elapsed_s / trial.inferences


def _energy(keys: Sequence[str], idle_w: float = 0.0) -> Metric:
    """Joules per inference over some domains; ``None`` for a trial that lacks one of them."""

    def of(trial: Trial) -> float | None:
        if not keys or any(key not in trial.energy_j for key in keys):
            return None
        joules = sum(trial.energy_j[key] for key in keys) - idle_w * trial.elapsed_s
        return joules / trial.inferences

    return of


def _shared_meters(baseline: Measurement, candidate: Measurement) -> list[MeterInfo]:
    """Meters of the same name and provenance in both: estimated and measured joules are never set side by side."""
    known = {(meter.name, meter.provenance) for meter in candidate.meters}
    return [meter for meter in baseline.meters if (meter.name, meter.provenance) in known]


def _metrics(baseline: Measurement, candidate: Measurement) -> list[tuple[str, Metric, Provenance | None]]:
    """Name, function and provenance of every metric that is taken per trial."""
    found: list[tuple[str, Metric, Provenance | None]] = []
    for meter in _shared_meters(baseline, candidate):
        keys = total_domains(meter)
        found.append((energy_metric(meter.name), _energy(keys), meter.provenance))
        if meter.scope != "process" and all(key in m.idle_power_w for key in keys for m in (baseline, candidate)):
            idle_w = sum(baseline.idle_power_w[key] for key in keys)
            found.append((energy_metric(meter.name, above_idle=True), _energy(keys, idle_w), meter.provenance))
        if len(meter.domains) > 1:
            found += [
                (energy_metric(meter.name, domain), _energy((f"{meter.name}/{domain}",)), meter.provenance)
                for domain in meter.domains
            ]
    return [*found, (CPU_TIME, _cpu, None), (WALL_TIME, _wall, None)]


def _paired(baseline: Measurement, candidate: Measurement, of: Metric) -> list[tuple[float, float]]:
    """Values of the blocks that both arms finished; none if any of them lacks a positive value."""
    others = {trial.block: trial for trial in candidate.trials}
    pairs = [(of(trial), of(others[trial.block])) for trial in baseline.trials if trial.block in others]
    sound = [(b, c) for b, c in pairs if b is not None and c is not None and _usable(b) and _usable(c)]
    return sound if len(sound) == len(pairs) else []


def _values(measurement: Measurement, of: Metric) -> list[float]:
    """Values of all blocks of an arm; none if any of them lacks a positive value."""
    values = [of(trial) for trial in measurement.trials]
    sound = [v for v in values if v is not None and _usable(v)]
    return sound if len(sound) == len(values) else []


def _usable(value: float) -> bool:
    """Whether a ratio can be made of it."""
    return math.isfinite(value) and value > 0


def _unit(metric: str) -> str:
    return "J" if metric.startswith("energy") else "s"


def _delta(
    name: str,
    values: tuple[Sequence[float], Sequence[float]],
    estimate: Estimate,
    check: Control | None,
    provenance: Provenance | None,
) -> Delta:
    base, cand = values
    ratio, interval = estimate(base, cand)
    verdict, reason = _verdict(interval, min(len(base), len(cand)), check, provenance)
    unit = _unit(name)
    return Delta(
        metric=name,
        baseline=Quantity(*_mean(base, unit), provenance),
        candidate=Quantity(*_mean(cand, unit), provenance),
        ratio=ratio,
        ci95=interval,
        verdict=verdict,
        reason=reason,
    )


def _mean(values: Sequence[float], unit: str) -> tuple[float, str, stats.Interval | None]:
    mean, interval = stats.geometric_mean(values)
    return mean, unit, interval


def _verdict(
    interval: stats.Interval | None, blocks: int, check: Control | None, provenance: Provenance | None
) -> tuple[Verdict, str]:
    if provenance == "estimated":
        return "not established", "energy is estimated, not measured"
    if interval is None or blocks < FEWEST_BLOCKS:
        return "not established", f"{blocks} finished blocks are too few"
    if check is None:
        return "not established", "no A/A control"
    if not check.passed:
        return "not established", "the A/A control failed: two workers on one file differ"
    if interval[0] <= 1 <= interval[1]:
        return "not established", "the interval holds 1"
    limit = check.detection_limit or 0.0
    if 1 / (1 + limit) < interval[1] < 1 or 1 < interval[0] < 1 + limit:
        return "not established", f"the interval reaches into the detection limit of {limit:.1%}"
    return ("better" if interval[1] < 1 else "worse"), ""


def _size_delta(baseline: Measurement, candidate: Measurement) -> Delta:
    base, cand = baseline.artifact.size_bytes, candidate.artifact.size_bytes
    verdict: Verdict = "better" if cand < base else "worse" if cand > base else "not established"
    return Delta(
        metric=SIZE,
        baseline=Quantity(base, "B", None),
        candidate=Quantity(cand, "B", None),
        ratio=cand / base,
        ci95=None,
        verdict=verdict,
        reason="the same size" if cand == base else "",
    )


def _paid_back(arm: str, metric: str, cost: Quantity, pairs: Sequence[tuple[float, float]]) -> BreakEven:
    saved, interval = stats.difference_interval([b for b, _ in pairs], [c for _, c in pairs])
    if interval is None or interval[0] <= 0 <= interval[1]:
        return BreakEven(arm, metric, cost, None, None, "the interval of the difference reaches 0")
    if saved < 0:
        return BreakEven(arm, metric, cost, None, None, "an inference costs more than before")
    return BreakEven(arm, metric, cost, cost.value / saved, (cost.value / interval[1], cost.value / interval[0]))

"""Two measurements side by side: deltas, verdicts, break-even, and the one sentence that says it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compressor import stats
from compressor.results import (
    BreakEven,
    Comparison,
    Control,
    Delta,
    Measurement,
    MeterInfo,
    Provenance,
    Quantity,
    Score,
    ScoreDelta,
    StageCost,
    Trial,
    Verdict,
)

CPU_TIME = "CPU time per inference"
WALL_TIME = "wall time per inference"
SIZE = "size"
FEWEST_BLOCKS = 3
"""A verdict needs at least so many blocks: two give an interval, but one that hangs on a single difference."""

Metric = Callable[[Trial], float | None]


def energy_metric(meter: str, domain: str | None = None, *, above_idle: bool = False) -> str:
    """Name of an energy metric: of a meter's total, or of one of its domains; gross, or above the idle power."""
    what = meter if domain is None else f"{meter}/{domain}"
    return f"energy {'above idle ' if above_idle else ''}per inference ({what})"


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
    keys = {
        "environment.cpu": lambda m: m.environment.cpu,
        "environment.cores": lambda m: m.environment.cores,
        "environment.gpus": lambda m: m.environment.gpus,
        "environment.governor": lambda m: m.environment.governor,
        "plan.batch": lambda m: m.plan.batch,
        "plan.threads": lambda m: m.plan.threads,
        "runtime.device": lambda m: m.runtime.device,
        "artifact.inputs": lambda m: [(i.dtype, i.shape[1:]) for i in m.artifact.inputs],
        "meters": lambda m: [(i.name, i.provenance, i.scope) for i in m.meters],
        "score.name": lambda m: m.score and m.score.name,
    }
    return tuple(key for key, of in keys.items() if of(baseline) != of(candidate))


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
    passed = {control.metric: control for control in controls}
    deltas = []
    for name, of, provenance in _metrics(baseline, candidate):
        pairs = _paired(baseline, candidate, of)
        if pairs:
            unit = "J" if name.startswith("energy") else "s"
            deltas.append(_delta(name, unit, pairs, passed.get(name), provenance))
    deltas.append(_size_delta(baseline, candidate))
    score = None
    if baseline.score is not None and candidate.score is not None:
        score = score_delta(baseline.score, candidate.score, max_loss)
    return Comparison(baseline.arm, candidate.arm, tuple(deltas), score)


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
        # The half-width on the log scale, said as a fraction.
        limit = None if interval is None else max(interval[1] / ratio, ratio / interval[0]) - 1
        holds = interval is not None and interval[0] <= 1 <= interval[1]
        found.append(Control(original.arm, name, ratio, interval, limit, holds))
    return tuple(found)


def score_delta(baseline: Score, candidate: Score, max_loss: float) -> ScoreDelta:
    """Whether the score is kept within the user's margin, paired on the same examples.

    The verdict is on the interval of the loss: ``retained`` if all of it is within the margin, ``lost`` if all of it is
    beyond.

    Args:
        baseline: Score of the baseline.
        candidate: Score of the candidate on the same examples.
        max_loss: The margin, in the score's unit; 0 or more.

    Returns:
        The delta with its verdict and how it was reached.
    """
    sign = 1 if baseline.higher_is_better else -1
    loss = sign * (baseline.value - candidate.value)
    interval: stats.Interval | None = None
    p_value: float | None = None
    paired = (
        baseline.per_example is not None
        and candidate.per_example is not None
        and len(baseline.per_example) == len(candidate.per_example)
    )
    if not paired or baseline.per_example is None or candidate.per_example is None:
        how = f"{baseline.name} has no value per example, so its loss has no interval"
    elif set(baseline.per_example) | set(candidate.per_example) <= {0.0, 1.0}:
        right = [v == 1 for v in baseline.per_example], [v == 1 for v in candidate.per_example]
        _, interval = stats.paired_proportion_loss(*right)
        p_value = stats.mcnemar(*right)
        how = f"{len(right[0])} pairs, Bonett-Price interval, exact McNemar p = {p_value:.2g}"
    else:
        better, worse = (baseline, candidate) if sign > 0 else (candidate, baseline)
        _, interval = stats.difference_interval(better.per_example or (), worse.per_example or ())
        how = f"{len(baseline.per_example)} pairs, t-interval of the differences"
    if interval is None:
        verdict = "not established"
    elif interval[1] <= max_loss:
        verdict = "retained"
    elif interval[0] > max_loss:
        verdict = "lost"
    else:
        verdict = "not established"
    return ScoreDelta(
        metric=baseline.name,
        unit=baseline.unit,
        baseline=baseline.value,
        candidate=candidate.value,
        loss=loss,
        ci95=interval,
        max_loss=max_loss,
        p_value=p_value,
        verdict=verdict,  # type: ignore[arg-type]
        reason=how,
    )


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
    if any(b is None or c is None or b <= 0 or c <= 0 for b, c in pairs):
        return []
    return [(b, c) for b, c in pairs if b is not None and c is not None]


def _delta(
    name: str, unit: str, pairs: Sequence[tuple[float, float]], check: Control | None, provenance: Provenance | None
) -> Delta:
    base, cand = [b for b, _ in pairs], [c for _, c in pairs]
    ratio, interval = stats.ratio_interval(base, cand)
    verdict, reason = _verdict(interval, len(pairs), check, provenance)
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
        return "not established", f"smaller than the detection limit of {limit:.1%}"
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

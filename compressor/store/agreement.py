"""Whether a Report agrees with itself: names that exist, means that follow from the trials, verdicts from intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from compressor import carbon
from compressor.compare import SIZE, break_even, compare
from compressor.results import (
    BenchRecord,
    Comparison,
    Confusion,
    Control,
    Delta,
    Measurement,
    Quantity,
    Report,
    Score,
    ScoreDelta,
)

Disagreement = tuple[str, str]
_TOLERANCE = 1e-6
_PICTURE = re.compile(r"[A-Za-z0-9+/]*={0,2}")


def disagreements(report: Report) -> Iterator[Disagreement]:
    """Find what in a report contradicts the rest of it.

    Args:
        report: The record, with all types as they should be.

    Yields:
        The key, and what is wrong with it.
    """
    arms = {measurement.arm: measurement for measurement in report.measurements}
    yield from _side_by_side(report.measurements, report.control, report.comparisons, "")
    for key, name in (
        *((f"break_even[{i}].baseline", b.baseline) for i, b in enumerate(report.break_even)),
        *((f"parity.{name}", name) for name in report.parity),
    ):
        if name not in arms:
            yield key, _stranger(name)
    yield from _break_even(report, arms)
    if report.confusion is not None:
        yield from _confusion(report.confusion, arms)
    if report.usage is not None:
        yield from ((f"usage.{key}", what) for key, what in carbon.wrong(report.usage))
    for i, stage in enumerate(report.stages):
        for name, joules in (("elapsed_s", stage.elapsed_s), ("cpu_s", stage.cpu_s), *stage.energy_j.items()):
            if joules < 0:
                yield f"stages[{i}].{name}", f"is {joules}, less than nothing"


def _confusion(confusion: Confusion, arms: dict[str, Measurement]) -> Iterator[Disagreement]:
    for key, name in (("baseline", confusion.baseline), ("candidate", confusion.candidate)):
        if name not in arms:
            yield f"confusion.{key}", _stranger(name)
    for i, one in enumerate(confusion.classes):
        mended = one.right_after - one.right_before + one.broken
        if not (0 <= one.broken <= one.right_before and 0 <= mended <= one.examples - one.right_before):
            yield f"confusion.classes[{i}]", "counts more examples than it has"
    if confusion.broken != sum(one.broken for one in confusion.classes):
        yield "confusion.broken", f"is {confusion.broken}, but the classes add up to another number"
    won = sum(one.right_after - one.right_before + one.broken for one in confusion.classes)
    if confusion.mended != won:
        yield "confusion.mended", f"is {confusion.mended}, but the classes add up to {won}"
    for i, flip in enumerate(confusion.flips):
        if not _PICTURE.fullmatch(flip.picture):
            yield f"confusion.flips[{i}].picture", "is not base64"


def bench_disagreements(record: BenchRecord) -> Iterator[Disagreement]:
    """Find what in the record of a benchmark contradicts the rest of it.

    Args:
        record: The record, with all types as they should be.

    Yields:
        The key, and what is wrong with it.
    """
    for i, run in enumerate(record.runs):
        yield from _side_by_side(run.measurements, run.control, run.comparisons, f"runs[{i}].")


def _side_by_side(
    measurements: Sequence[Measurement], controls: Sequence[Control], comparisons: Sequence[Comparison], key: str
) -> Iterator[Disagreement]:
    """One benchmark: its arms, controls and comparisons."""
    arms: dict[str, Measurement] = {}
    for i, measurement in enumerate(measurements):
        if measurement.arm in arms:
            yield f"{key}measurements[{i}].arm", f"names {measurement.arm!r}, as another arm does"
        arms[measurement.arm] = measurement
        yield from _measurement(measurement, f"{key}measurements[{i}]")
    for where, name in (
        *((f"{key}comparisons[{i}].baseline", c.baseline) for i, c in enumerate(comparisons)),
        *((f"{key}comparisons[{i}].candidate", c.candidate) for i, c in enumerate(comparisons)),
        *((f"{key}control[{i}].arm", c.arm) for i, c in enumerate(controls)),
    ):
        if name not in arms:
            yield where, _stranger(name)
    for i, control in enumerate(controls):
        yield from _control(control, f"{key}control[{i}]")
    for i, comparison in enumerate(comparisons):
        baseline, candidate = arms[comparison.baseline], arms[comparison.candidate]
        yield from _comparison(comparison, baseline, candidate, f"{key}comparisons[{i}]")


def _stranger(name: str) -> str:
    return f"names the arm {name!r}, which was not measured"


def _measurement(measurement: Measurement, key: str) -> Iterator[Disagreement]:
    known = {f"{meter.name}/{domain}" for meter in measurement.meters for domain in meter.domains}
    blocks: set[int] = set()
    for i, trial in enumerate(measurement.trials):
        where = f"{key}.trials[{i}]"
        if trial.inferences < 1:
            yield f"{where}.inferences", f"is {trial.inferences}; a finished block has at least 1"
        if trial.block in blocks:
            yield f"{where}.block", f"is {trial.block}, as another trial's is"
        blocks.add(trial.block)
        for name, value in (("elapsed_s", trial.elapsed_s), ("cpu_s", trial.cpu_s)):
            if value < 0:
                yield f"{where}.{name}", f"is {value}, less than nothing"
        for name, joules in trial.energy_j.items():
            if name not in known:
                yield f"{where}.energy_j", f"holds {name!r}, which is no meter's domain: its provenance is unknown"
            if joules < 0:
                yield f"{where}.energy_j.{name}", f"is {joules}, less than nothing"
    latency = measurement.latency
    if latency is not None and (
        len(latency.percentiles_s) != 101 or any(b < a for a, b in pairwise(latency.percentiles_s))
    ):
        yield f"{key}.latency.percentiles_s", "is not 101 rising values"
    if measurement.score is not None:
        yield from _score(measurement.score, f"{key}.score")


def _score(score: Score, key: str) -> Iterator[Disagreement]:
    values = score.per_example
    if values and not _close(sum(values) / len(values), score.value):
        yield f"{key}.value", f"is {score.value:.6g}, but its examples average to {sum(values) / len(values):.6g}"


def _control(control: Control, key: str) -> Iterator[Disagreement]:
    if control.ci95 is None:
        if control.passed:
            yield f"{key}.passed", "is true without an interval"
        return
    yield from _inside(control.ratio, control.ci95, key, "ratio")
    if control.passed != (control.ci95[0] <= 1 <= control.ci95[1]):
        yield f"{key}.passed", f"is {str(control.passed).lower()}, but the interval says otherwise"


def _comparison(
    comparison: Comparison, baseline: Measurement, candidate: Measurement, key: str
) -> Iterator[Disagreement]:
    # The means and ratios are made again from the trials, by the code that made them.
    fresh = {delta.metric: delta for delta in compare(baseline, candidate, ()).deltas}
    for i, delta in enumerate(comparison.deltas):
        where = f"{key}.deltas[{i}]"
        if delta.metric not in fresh:
            yield f"{where}.metric", f"is {delta.metric!r}, which does not follow from the trials"
            continue
        yield from _delta(delta, fresh[delta.metric], where)
    if comparison.score is not None:
        yield from _score_delta(comparison.score, baseline, candidate, f"{key}.score")


def _delta(delta: Delta, fresh: Delta, key: str) -> Iterator[Disagreement]:
    for name, given, made in (
        ("baseline", delta.baseline, fresh.baseline),
        ("candidate", delta.candidate, fresh.candidate),
    ):
        yield from _quantity(given, made, f"{key}.{name}")
    if not _close(delta.ratio, fresh.ratio):
        yield f"{key}.ratio", f"is {delta.ratio:.6g}, but the trials give {fresh.ratio:.6g}"
    if not _same_interval(delta.ci95, fresh.ci95):
        yield f"{key}.ci95", "does not follow from the trials"
    if delta.verdict == "not established":
        return
    if "estimated" in (delta.baseline.provenance, delta.candidate.provenance):
        yield f"{key}.verdict", f"is {delta.verdict!r} for estimated joules"
    if delta.metric != SIZE and (delta.ci95 is None or delta.ci95[0] <= 1 <= delta.ci95[1]):
        yield f"{key}.verdict", f"is {delta.verdict!r}, but the interval does not exclude 1"
    if (delta.verdict == "better") != (delta.ratio < 1):
        yield f"{key}.verdict", f"is {delta.verdict!r} at a ratio of {delta.ratio:.6g}"


def _quantity(given: Quantity, made: Quantity, key: str) -> Iterator[Disagreement]:
    if not _close(given.value, made.value):
        yield f"{key}.value", f"is {given.value:.6g}, but the trials give {made.value:.6g}"
    if not _same_interval(given.ci95, made.ci95):
        yield f"{key}.ci95", "does not follow from the trials"
    if given.provenance != made.provenance:
        yield f"{key}.provenance", f"is {given.provenance}, but the meter's is {made.provenance}"
    if given.unit != made.unit:
        yield f"{key}.unit", f"is {given.unit!r}, not {made.unit!r}"


def _break_even(report: Report, arms: dict[str, Measurement]) -> Iterator[Disagreement]:
    for i, entry in enumerate(report.break_even):
        made = [
            fresh
            for c in report.comparisons
            if c.baseline == entry.baseline
            for fresh in break_even(arms[c.baseline], arms[c.candidate], report.stages)
            if fresh.metric == entry.metric
        ]
        if not any(_close(entry.cost.value, fresh.cost.value) for fresh in made):
            yield f"break_even[{i}].cost", "does not follow from the stages"
        elif not any(_close(entry.inferences or 0.0, fresh.inferences or 0.0) for fresh in made):
            yield f"break_even[{i}].inferences", "does not follow from the trials and the stages"


def _score_delta(delta: ScoreDelta, baseline: Measurement, candidate: Measurement, key: str) -> Iterator[Disagreement]:
    if baseline.score is None or candidate.score is None:
        yield key, "compares scores that the arms do not have"
        return
    for name, given, score in (
        ("baseline", delta.baseline, baseline.score),
        ("candidate", delta.candidate, candidate.score),
    ):
        if not _close(given, score.value):
            yield f"{key}.{name}", f"is {given:.6g}, but the arm's score is {score.value:.6g}"
    loss = (delta.baseline - delta.candidate) * (1 if baseline.score.higher_is_better else -1)
    if not _close(delta.loss, loss):
        yield f"{key}.loss", f"is {delta.loss:.6g}, but the scores give {loss:.6g}"
    if delta.ci95 is not None:
        low, high = delta.ci95
        made = "retained" if high <= delta.max_loss else "lost" if low > delta.max_loss else "not established"
        if delta.verdict != made:
            yield f"{key}.verdict", f"is {delta.verdict!r}, but the interval and the margin say {made!r}"


def _inside(value: float, interval: tuple[float, float], key: str, name: str) -> Iterator[Disagreement]:
    if not interval[0] <= value <= interval[1]:
        yield f"{key}.{name}", f"is {value:.6g}, outside its own interval"


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=1e-12)


def _same_interval(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    if one is None or other is None:
        return one is other
    return _close(one[0], other[0]) and _close(one[1], other[1])

"""``compress compare``: two saved measurements, made at different times, side by side.

Blocks of separate runs are not paired, so the intervals are Welch's (:func:`compressor.stats.unpaired_ratio_interval`).
What cannot be compared is refused with the keys that differ; what may have shifted both is told beside the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compressor import compare as comparing
from compressor.errors import MeasurementError, nearest
from compressor.results import Comparison, Control, Delta, Measurement, Plan, Report
from compressor.store.records import load_measured

Wish = Literal["better", "not-worse"]

_VALUE = 120
UNPAIRED = (
    "Separate runs: their blocks are not paired (Welch's interval), and what changed on the machine in between is in "
    "the ratios."
)


@dataclass(frozen=True)
class Pair:
    """One arm of each file at the same batch size and number of threads, in the same phase.

    Attributes:
        batch: Examples per call.
        threads: Threads of the runtime.
        phase: ``prefill`` or ``decode`` of a causal language model; empty for other models.
        comparison: The first file's arm as the baseline, the second's as the candidate.
        control: Per metric the stricter of both files' A/A controls.
        notes: What else differs and may be what the difference is due to.
    """

    batch: int
    threads: int
    phase: str
    comparison: Comparison
    control: tuple[Control, ...]
    notes: tuple[str, ...]

    @property
    def size(self) -> str:
        """What it was measured at, in words."""
        return f"{self.phase and f'{self.phase}, '}batch {self.batch}, {self.threads} thread{'s' * (self.threads > 1)}"


@dataclass(frozen=True)
class Gate:
    """Whether a wish was met.

    Attributes:
        wish: ``better`` or ``not-worse``.
        met: Whether it was, in every pair.
        reasons: One sentence per pair.
    """

    wish: Wish
    met: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Across:
    """What two files say of each other.

    Attributes:
        pairs: One per batch size, number of threads and phase that both files have.
        notes: What holds for all of them.
        gate: The answer to ``--fail-unless``; ``None`` if nothing was asked.
    """

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]
    gate: Gate | None


_Size = tuple[int, int, str]


@dataclass(frozen=True)
class _Side:
    """A file's runs by batch size, threads and phase, and what they ran on."""

    path: Path
    runs: Mapping[_Size, tuple[Sequence[Measurement], Sequence[Control]]]
    data: str


def compare_files(before: Path, after: Path, *, arm: str | None = None, wish: Wish | None = None) -> Across:
    """Compare two saved measurements.

    Args:
        before: A ``report.json`` of ``compress`` or the file of ``compress bench --out``.
        after: Another one.
        arm: The arm to take from both; ``None`` for the only candidate of the first file (its first arm where it has
            none), and for the arm of that name in the second file, or else that file's own only candidate or first arm.
        wish: What must hold of the second against the first.

    Returns:
        The comparisons; every one of them is between measurements that can be compared.

    Raises:
        OutputError: A file cannot be read or believed.
        MeasurementError: There is no such arm, it is not clear which is meant, or they cannot be compared.
    """
    one, other = _side(before), _side(after)
    shared = [key for key in one.runs if key in other.runs]
    if not shared:
        raise MeasurementError(
            f"cannot be compared with {before}: plan.batch, plan.threads or the phase differ "
            f"({_sizes(other.runs)} against {_sizes(one.runs)})",
            where=after,
            mend="measure both at the same --batch and --threads",
        )
    pairs = tuple(_pair(one, other, key, arm) for key in shared)
    alone = [key for key in (*one.runs, *other.runs) if key not in shared]
    notes = [UNPAIRED]
    if alone:
        notes.append(f"Only one file has {_sizes(alone)}; that is left out.")
    return Across(pairs, tuple(notes), None if wish is None else _gate(pairs, wish))


def _side(path: Path) -> _Side:
    record = load_measured(path)
    seed = record.settings.get("seed")
    data = ", ".join(
        str(x) for x in (record.task.name, record.settings.get("target"), f"seed {seed}" if seed else None) if x
    )
    found: Sequence[tuple[Sequence[Measurement], Sequence[Control]]]
    if isinstance(record, Report):
        found = [(record.measurements, record.control)]
    else:
        found = [(run.measurements, run.control) for run in record.runs]
    runs = {_size(m[0].plan): (m, c) for m, c in found if m}
    if not runs:
        raise MeasurementError("holds no measurement", where=path)
    return _Side(path, runs, data)


def _size(plan: Plan) -> _Size:
    return plan.batch, plan.threads, plan.workload.phase if plan.workload else ""


def _sizes(keys: Iterable[_Size]) -> str:
    return ", ".join(
        f"{phase and f'{phase} at '}batch {batch} on {threads} thread{'s' * (threads > 1)}"
        for batch, threads, phase in keys
    )


def _pair(one: _Side, other: _Side, key: _Size, name: str | None) -> Pair:
    (before_arms, before_control), (after_arms, after_control) = one.runs[key], other.runs[key]
    before = _pick(one.path, before_arms, name)
    same = next((m for m in after_arms if m.arm == before.arm), None) if name is None else None
    after = same or _pick(other.path, after_arms, name)
    differ = dict(comparing.differences(before, after))
    if before.runtime.name != after.runtime.name:
        differ["runtime.name"] = before.runtime.name, after.runtime.name
    if one.data != other.data:
        differ["task"] = one.data, other.data
    if differ:
        told = "; ".join(f"{name} ({_short(a)} against {_short(b)})" for name, (a, b) in differ.items())
        raise MeasurementError(f"cannot be compared with {one.path}, as these differ: {told}", where=other.path)
    for side, picked in ((one, before), (other, after)):
        if not picked.trials:
            raise MeasurementError("has no finished block", where=f"{side.path}: {picked.arm}", mend="measure it again")
    controls = comparing.stricter(before_control, after_control)
    comparison = comparing.compare_apart(before, after, controls)
    return Pair(*key, comparison, controls, _notes(before, after))


def _pick(path: Path, arms: Sequence[Measurement], name: str | None) -> Measurement:
    names = [m.arm for m in arms]
    if name is not None:
        if name not in names:
            raise MeasurementError(f"has no arm '{name}'", where=path, mend=nearest(name, names))
        return arms[names.index(name)]
    candidates = [m for m in arms if m.role == "candidate"]
    if len(candidates) > 1:
        raise MeasurementError(
            f"has {len(candidates)} candidates", where=path, mend=f"pick one with --arm: {', '.join(names)}"
        )
    return candidates[0] if candidates else arms[0]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _VALUE else f"{text[: _VALUE - 1]}…"


def _notes(before: Measurement, after: Measurement) -> tuple[str, ...]:
    notes = []
    if before.runtime.version != after.runtime.version:
        notes.append(f"{before.runtime.name} {before.runtime.version} before, {after.runtime.version} after.")
    if before.environment.os != after.environment.os:
        notes.append(f"{before.environment.os} before, {after.environment.os} after.")
    if before.environment.turbo != after.environment.turbo:
        notes.append(f"Turbo was {before.environment.turbo} before and is {after.environment.turbo} after.")
    if before.plan.preset != after.plan.preset:
        notes.append(f"Measured with the preset {before.plan.preset} before, {after.plan.preset} after.")
    return tuple(notes)


# --- the gate ------------------------------------------------------------------------------------------------------


def judged(pair: Pair) -> Delta | None:
    """The delta that a verdict is about: measured energy if there is any, else CPU time."""
    totals = [d for d in pair.comparison.deltas if d.metric.startswith("energy") and "/" not in d.metric]
    measured = [d for d in totals if d.baseline.provenance != "estimated"]
    cpu = [d for d in pair.comparison.deltas if d.metric == comparing.CPU_TIME]
    return next(iter([*measured, *cpu]), None)


def _gate(pairs: Sequence[Pair], wish: Wish) -> Gate:
    answers = [_answer(pair, wish) for pair in pairs]
    return Gate(wish, all(met for met, _ in answers), tuple(reason for _, reason in answers))


def _answer(pair: Pair, wish: Wish) -> tuple[bool, str]:
    delta = judged(pair)
    if delta is None:
        return False, f"{pair.size}: nothing could be compared"
    blind = "" if delta.metric.startswith("energy") else " (energy was not measured)"
    said = f"{pair.size}: {delta.metric}{blind} is {delta.verdict}" + (f" ({delta.reason})" if delta.reason else "")
    if delta.verdict != "not established" or wish == "better":
        return delta.verdict == "better", said
    # Where nothing could be seen, "not worse" was not shown either.
    control = next((c for c in pair.control if c.metric == delta.metric), None)
    return control is not None and control.passed and delta.ci95 is not None, said

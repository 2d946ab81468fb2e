"""From a record to the rows that are listed: what the run was, and one row per arm. Pure.

The rows only repeat what the record says, so that ten thousand of them are listed without opening one record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressor.compare import CPU_TIME, energy_metric, quantities, total_domains
from compressor.footprint import operational_carbon_g
from compressor.report import aggregates, use
from compressor.report.text import work
from compressor.results import (
    BenchRecord,
    BenchRun,
    Delta,
    Environment,
    Measurement,
    MeterInfo,
    Quantity,
    Report,
    StageCost,
)

_NO_METHODS = ("export", "load")
_TRUST = ("measured", "replayed", "estimated")


@dataclass(frozen=True)
class Mean:
    """A value and its 95 % interval; ``None`` where there are too few blocks or examples for one."""

    value: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class RunRow:
    """One run.

    Attributes:
        digest: SHA-256 of the record, see :func:`digest_of`; its first characters name the run.
        kind: ``compress`` (the demo is one) or ``bench``.
        created_utc: ISO 8601 time of the record.
        tool: Name and version of the program that wrote it.
        model: Name of the user's model; of the first file in a benchmark.
        task: Name of the data.
        data: What the score was computed on: two runs of the same words ran on the same test examples.
        metric: Name of the score.
        synthetic: Whether the score is agreement on random inputs.
        headline: The verdict in one sentence; empty for a benchmark.
        compress_s: Wall-clock time of compressing, all stages; ``None`` for a benchmark.
        compress_cpu_s: CPU time of it.
        compress_j: Energy of it; ``None`` where a stage was not read.
        compress_provenance: Where those joules come from.
        compress_carbon_g: g CO2e of it, where the user named a country or an intensity.
        folder: Where the run's files were written; ``None`` if nowhere.
        command: The command line that repeats it.
    """

    digest: str
    kind: str
    created_utc: str
    tool: str
    model: str
    task: str
    data: str
    metric: str
    synthetic: bool
    headline: str
    compress_s: float | None
    compress_cpu_s: float | None
    compress_j: float | None
    compress_provenance: str | None
    compress_carbon_g: float | None
    folder: str | None
    command: str


@dataclass(frozen=True)
class ArmRow:
    """One arm of a run: a model file on a runtime. Controls have no row.

    Attributes:
        position: Number within the run, from 0.
        listed: Whether ``compress history`` lists it; the baselines and stages of a compression are not.
        role: As in :class:`compressor.results.Measurement`.
        arm: The arm's name.
        model: Name of the model.
        model_sha256: Of the user's model; of the file itself in a benchmark.
        method: What was done to the model, joined by ``+``; empty for nothing.
        artifact_sha256: Of the file that ran.
        size_bytes: Of that file and its external data.
        parameters: Number of weights, where the format says.
        runtime: Its name.
        runtime_version: Its version.
        device: ``cpu`` or the accelerator.
        machine: What :func:`compressor.compare.comparable` takes a machine to be, see :func:`machine_of`.
        batch: Examples per call.
        threads: Threads of the runtime.
        workload: What a call is where tokens are counted, an "inference" then being one token; empty elsewhere.
        score: On the test examples, in ``score_unit``.
        score_unit: Its unit.
        higher_is_better: Direction of the score.
        energy_j: Energy per inference of the most trustworthy meter that was read, gross.
        provenance: Where those joules come from; estimated and measured ones are never ranked together.
        meter: The meter's name.
        carbon_g: g CO2e per inference, where the user named a country or an intensity.
        cpu_s: CPU time per inference.
        baseline: Position of the arm it is compared with first; ``None`` if with none.
        energy_ratio: Its energy over that arm's, paired by block.
        energy_verdict: What the run's report said of that: ``better``, ``worse`` or ``not established``.
        cpu_ratio: Its CPU time over that arm's.
        cpu_verdict: The same for CPU time.
        label: Energy label A to G that the run's report shows; ``None`` where it shows none.
    """

    position: int
    listed: bool
    role: str
    arm: str
    model: str
    model_sha256: str
    method: str
    artifact_sha256: str
    size_bytes: int
    parameters: int | None
    runtime: str
    runtime_version: str
    device: str
    machine: str
    batch: int
    threads: int
    workload: str
    score: Mean | None
    score_unit: str | None
    higher_is_better: bool | None
    energy_j: Mean | None
    provenance: str | None
    meter: str | None
    carbon_g: float | None
    cpu_s: Mean | None
    baseline: int | None
    energy_ratio: Mean | None
    energy_verdict: str | None
    cpu_ratio: Mean | None
    cpu_verdict: str | None
    label: str | None


def digest_of(record: str) -> str:
    """What makes a record the same record: SHA-256 over its JSON with sorted keys and no blanks."""
    plain = json.dumps(json.loads(record), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()


def machine_of(environment: Environment) -> str:
    """The machine in one line: what must be equal for two measurements to be compared."""
    parts = [environment.cpu, f"{environment.cores} core{'s' * (environment.cores != 1)}", *environment.gpus]
    return " · ".join([*parts, f"governor {environment.governor}"] if environment.governor else parts)


def rows_of(record: Report | BenchRecord, digest: str, folder: str | None) -> tuple[RunRow, tuple[ArmRow, ...]]:
    """Take from a record what is listed.

    Args:
        record: A report, or the record of a benchmark.
        digest: Of its JSON.
        folder: Where the run's files are.

    Returns:
        The run, and its arms without the controls.
    """
    if isinstance(record, Report):
        model = record.model.name, record.model.sha256
        return _report_run(record, digest, folder), tuple(_arms(record, 0, model))
    arms: list[ArmRow] = []
    for one in record.runs:
        arms += _arms(one, len(arms), None)
    return _bench_run(record, digest, folder, arms[0].model if arms else ""), tuple(arms)


# --- the run -------------------------------------------------------------------------------------------------------


def _report_run(report: Report, digest: str, folder: str | None) -> RunRow:
    candidate = next((m for m in report.measurements if m.role == "candidate"), None)
    joules, provenance = _compress_j(report.stages, candidate.meters if candidate else ())
    stages = report.stages
    return RunRow(
        digest=digest,
        kind="compress",
        created_utc=report.created_utc,
        tool=report.tool,
        model=report.model.name,
        task=report.task.name,
        data=_data(report),
        metric=report.task.metric,
        synthetic=report.task.synthetic,
        headline=report.headline,
        compress_s=sum(stage.elapsed_s for stage in stages) if stages else None,
        compress_cpu_s=sum(stage.cpu_s for stage in stages) if stages else None,
        compress_j=joules,
        compress_provenance=provenance,
        compress_carbon_g=_carbon_g(joules, report),
        folder=folder,
        command=report.command,
    )


def _bench_run(record: BenchRecord, digest: str, folder: str | None, model: str) -> RunRow:
    return RunRow(
        digest=digest,
        kind="bench",
        created_utc=record.created_utc,
        tool=record.tool,
        model=model,
        task=record.task.name,
        data=_data(record),
        metric=record.task.metric,
        synthetic=record.task.synthetic,
        headline="",
        compress_s=None,
        compress_cpu_s=None,
        compress_j=None,
        compress_provenance=None,
        compress_carbon_g=None,
        folder=folder,
        command=record.command,
    )


def _data(record: Report | BenchRecord) -> str:
    """The data, the column and the draw: what decides which examples a score is computed on."""
    name = record.task.name
    if record.task.synthetic and isinstance(record, Report):
        # Agreement with one original says nothing of another's.
        name = f"random inputs of {record.model.name} ({record.model.sha256[:7]})"
    target, seed = record.settings.get("target"), record.settings.get("seed")
    count = f"{record.task.test_examples:,} test examples".replace(",", " ")
    parts = [name, f"target {target}" if target else "", f"seed {seed}" if seed else "", count]
    return ", ".join(part for part in parts if part)


def _compress_j(stages: Sequence[StageCost], meters: Sequence[MeterInfo]) -> tuple[float | None, str | None]:
    """Joules of all stages and where they are from, by the most trustworthy meter that read every one of them.

    Where a stage was not read there is no sum: that of the rest would look complete.
    """
    for meter in sorted(meters, key=lambda meter: _TRUST.index(meter.provenance)):
        keys = total_domains(meter)
        if stages and keys and all(key in stage.energy_j for stage in stages for key in keys):
            return sum(stage.energy_j[key] for stage in stages for key in keys), meter.provenance
    return None, None


def _carbon_g(joules: float | None, one: Report | BenchRun) -> float | None:
    found = use.intensity(one) if isinstance(one, Report) else None
    if joules is None or found is None or not isinstance(one, Report):
        return None
    return operational_carbon_g(joules, found.g_per_kwh, use.usage(one).pue)


# --- its arms ------------------------------------------------------------------------------------------------------


def _arms(one: Report | BenchRun, start: int, model: tuple[str, str] | None) -> list[ArmRow]:
    """One row per arm that is no control; ``model`` is the compressed one, ``None`` where every arm is a model."""
    shown = [m for m in one.measurements if m.role != "control"]
    place = {m.arm: start + i for i, m in enumerate(shown)}
    return [_arm(one, m, place, model) for m in shown]


def _arm(
    one: Report | BenchRun,
    m: Measurement,
    place: Mapping[str, int],
    model: tuple[str, str] | None,
) -> ArmRow:
    known, comparison = _known(one, m), next((c for c in one.comparisons if c.candidate == m.arm), None)
    deltas = {d.metric: d for d in comparison.deltas} if comparison else {}
    meter = aggregates.best_meter(m)
    metric = energy_metric(meter.name) if meter else ""
    energy, name_and_sha = known.get(metric), model or (m.arm, m.artifact.sha256)
    return ArmRow(
        position=place[m.arm],
        listed=model is None or m.role == "candidate",
        role=m.role,
        arm=m.arm,
        model=name_and_sha[0],
        model_sha256=name_and_sha[1],
        method="+".join(step.method for step in m.artifact.steps if step.method not in _NO_METHODS),
        artifact_sha256=m.artifact.sha256,
        size_bytes=m.artifact.size_bytes,
        parameters=m.artifact.parameters,
        runtime=m.runtime.name,
        runtime_version=m.runtime.version,
        device=m.runtime.device,
        machine=machine_of(m.environment),
        batch=m.plan.batch,
        threads=m.plan.threads,
        workload=work(m.plan.workload) if m.plan.workload else "",
        score=Mean(m.score.value, aggregates.score_interval(m.score)) if m.score else None,
        score_unit=m.score.unit if m.score else None,
        higher_is_better=m.score.higher_is_better if m.score else None,
        energy_j=_mean(energy),
        provenance=energy.provenance if energy else None,
        meter=meter.name if meter and energy else None,
        carbon_g=_carbon_g(energy.value if energy else None, one),
        cpu_s=_mean(known.get(CPU_TIME)),
        baseline=place.get(comparison.baseline) if comparison else None,
        energy_ratio=_ratio(deltas.get(metric)),
        energy_verdict=deltas[metric].verdict if metric in deltas else None,
        cpu_ratio=_ratio(deltas.get(CPU_TIME)),
        cpu_verdict=deltas[CPU_TIME].verdict if CPU_TIME in deltas else None,
        label=_label(one, m),
    )


def _known(one: Report | BenchRun, m: Measurement) -> Mapping[str, Quantity]:
    """The arm's means; what a comparison says of it wins, so that the list and the report show the same figures."""
    found = dict(quantities(m))
    for comparison in reversed(one.comparisons):
        if m.arm in (comparison.baseline, comparison.candidate):
            found |= {d.metric: d.baseline if m.arm == comparison.baseline else d.candidate for d in comparison.deltas}
    return found


def _mean(quantity: Quantity | None) -> Mean | None:
    return Mean(quantity.value, quantity.ci95) if quantity else None


def _ratio(delta: Delta | None) -> Mean | None:
    return Mean(delta.ratio, delta.ci95) if delta else None


def _label(one: Report | BenchRun, m: Measurement) -> str | None:
    """The energy label that the report shows: it is about the candidate of its first comparison."""
    if not isinstance(one, Report) or not one.comparisons or one.comparisons[0].candidate != m.arm:
        return None
    return use.label(one)[0] or None

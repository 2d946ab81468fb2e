"""``compress bench``: files of any make side by side, by the same code and the same protocol as the main job.

The first file is the baseline, and its twin the A/A control. A file of the user's is screened by the model loader, and
what runs is a copy in a folder of our own: ONNX as it is, a program as ``torch.export`` writes it again. So no worker
ever opens a file that was not looked at, and what is measured cannot change meanwhile.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from compressor import compare as comparing
from compressor.bench_files import copy_model, unique_name
from compressor.benchmark.plan import make_plan
from compressor.benchmark.runner import Arm, BenchmarkResult, run_benchmark
from compressor.errors import DataError, RecipeError, RuntimeUnavailableError
from compressor.generation import open_models, workloads
from compressor.meters.base import MeterOptions
from compressor.meters.registry import open_meter
from compressor.model.base import Arrays
from compressor.model.hf_folder import limits, resolve
from compressor.results import SCHEMA, BenchRecord, BenchRun, Plan, Score, TensorSpec
from compressor.task.base import Task

if TYPE_CHECKING:
    from compressor.runtimes.base import Session

SYNTHETIC_EXAMPLES = 64
"""Inputs drawn where no data are given; more if a batch is larger."""


class Listener(Protocol):
    """Told what is going on."""

    def stage(self, name: str, resumed: bool) -> None:
        """A stage begins."""

    def progress(self, done_s: float, total_s: float, text: str) -> None:
        """How far the measurement is, in seconds."""


@dataclass(frozen=True)
class BenchJob:
    """What is asked for; the fields are the command line's options.

    Attributes:
        files: ``.onnx`` and ``.pt2`` files, Hugging Face folders or names on their hub; the first is the baseline.
        runtimes: One per file, or one for all; empty for the usual runtime of each file's format. A ``.pt2`` is
            exported to ONNX where a runtime of ONNX files is asked for.
        batches: Examples per call, each measured apart; empty for 1, or the models' own if that is fixed.
        threads: Threads of the runtime, each measured apart.
        data: Data as ``--data`` takes them; ``None`` to draw inputs from the first file's signature and score nothing.
        metric: Metric's name or callable; ``None`` to choose by the data.
        target: CSV column that holds the target.
        max_loss: How much score may be lost, in the score's unit.
        preset: ``quick``, ``default`` or ``certify``.
        meters: Meters by name; empty for every measuring one that can be read, else ``cpu-time``.
        watts_per_core: For ``cpu-time``.
        seed: Of everything random.
        prompt_tokens: For causal language models: tokens of the prompt. If this or ``new_tokens`` is given, the files
            are Hugging Face folders or ONNX files with a cache, ``data`` is a text file, and prefill and decode are
            measured apart, per token.
        new_tokens: Tokens that are decoded one by one behind it.
        each: Whether every file is run on every one of ``runtimes`` that can run it.
        device: Where to run: ``cpu``, ``cuda`` or ``cuda:N``.
        hf_task: Task of the Hugging Face models; by their architectures if ``None``.
        trust_remote_code: Whether Python code that a Hugging Face folder brings may be run.
        text: Columns of the text, or of the two texts of a pair; found by name if ``None``.
        max_length: Tokens that every text is cut or padded to; ``None`` for 128.
    """

    files: tuple[Path, ...]
    runtimes: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    threads: tuple[int, ...] = (1,)
    data: str | None = None
    metric: str | None = None
    target: str | None = None
    max_loss: float = 0.01
    preset: str = "default"
    meters: tuple[str, ...] = ()
    watts_per_core: float | None = None
    seed: int = 0
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    each: bool = False
    device: str = "cpu"
    hf_task: str | None = None
    trust_remote_code: bool = False
    text: tuple[str, ...] | None = None
    max_length: int | None = None


def run_bench(job: BenchJob, listener: Listener | None = None, command: str = "") -> BenchRecord:
    """Measure the files.

    Args:
        job: What is asked for.
        listener: Told of stages and progress.
        command: The command line, for the record.

    Returns:
        One run per batch size and number of threads. With Ctrl-C: what was finished by then.

    Raises:
        CompressorError: Anything in the input that the user can mend; see its subclasses.
        KeyboardInterrupt: Ctrl-C before the first block was begun.
    """
    comparing.require_margin(job.max_loss)
    job = replace(job, files=tuple(resolve(file, trust_remote_code=job.trust_remote_code) for file in job.files))
    job, runtimes = _runtimes(job)
    # Mistakes in names and numbers are told before any file is loaded.
    plans = [_plan(job, batch, threads) for batch in job.batches or (1,) for threads in job.threads]
    for name in job.meters:
        open_meter(name, MeterOptions(watts_per_core=job.watts_per_core)).close()
    generating = job.prompt_tokens is not None or job.new_tokens is not None
    if generating:
        for option, given in (("--hf-task", job.hf_task), ("--trust-remote-code", job.trust_remote_code)):
            if given:
                what = "does not go with --prompt-tokens and --new-tokens"
                raise RecipeError(what, where=option, mend="leave it out")
        plans = workloads(plans, job.prompt_tokens, job.new_tokens)
    elif job.metric is not None:
        from compressor.task.metrics import metric

        metric(job.metric)
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        if listener:
            listener.stage("load", resumed=False)
        if generating:
            ready = open_models(
                job.files, runtimes, plans, data=job.data, metric=job.metric, seed=job.seed, device=job.device
            )
            arms, examples, summary, notes = list(ready.arms), ready.prompts, ready.task, ready.notes
        else:
            arms = _arms(job, runtimes, Path(folder))
            inputs = _shared_inputs(arms)
            plans = _at_fixed_batch(plans, inputs[0], asked=bool(job.batches))
            task = _task(job, arms, inputs, max(plan.batch for plan in plans))
            arms = _judged(arms, task)
            examples, summary, notes = task.test().inputs, task.summary, tuple(getattr(task, "notes", ()))
        runs, interrupted = _measure(job, arms, examples, plans, listener)
    return BenchRecord(
        schema=SCHEMA,
        tool=f"compressor {version('compressor')}",
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        task=summary,
        runs=tuple(runs),
        interrupted=interrupted,
        settings=_settings(job),
        command=command,
        notes=notes,
    )


# --- what is asked for ---------------------------------------------------------------------------------------------


def _runtimes(job: BenchJob) -> tuple[BenchJob, list[str | None]]:
    """The job with a file for each arm, and the runtime of each, if one is named."""
    from compressor.runtimes.device import CPU
    from compressor.runtimes.registry import FORMATS, require

    if not job.files:
        raise RecipeError("no file was named", where="bench")
    # On the CPU the usual ones are always there, and torch is slow to import.
    usual = [] if job.device == CPU else [FORMATS.get(file.suffix.lower(), "torch") for file in job.files]
    require(tuple(dict.fromkeys(job.runtimes or usual)), job.device)
    if job.each:
        if not job.runtimes:
            raise RecipeError("needs the runtimes that it is about", where="--each", mend="name them with --runtime")
        pairs = [(file, name) for file in job.files for name in job.runtimes if _can_run(file, name)]
        if left := [file for file in job.files if file not in {file for file, _ in pairs}]:
            raise RuntimeUnavailableError(f"none of {', '.join(job.runtimes)} runs it", where=left[0])
        return replace(job, files=tuple(file for file, _ in pairs)), [name for _, name in pairs]
    if len(job.runtimes) > 1 and len(job.runtimes) != len(job.files):
        raise RecipeError(
            f"names {len(job.runtimes)} runtimes for {len(job.files)} files",
            where="--runtime",
            mend="name one for all, one per file in their order, or add --each to run every file on each",
        )
    named = job.runtimes * len(job.files) if len(job.runtimes) == 1 else job.runtimes
    return job, list(named) or [None] * len(job.files)


def _can_run(file: Path, runtime: str) -> bool:
    """Whether a runtime runs a file, be it after an export to ONNX."""
    from compressor.runtimes.registry import ONNX, PROGRAM, RUNTIMES, opens

    exportable = file.is_dir() or file.suffix.lower() == PROGRAM
    return opens(runtime, file) or (exportable and (ONNX in RUNTIMES[runtime].opens or file.is_dir()))


def _plan(job: BenchJob, batch: int, threads: int) -> Plan:
    return make_plan(job.preset, batch=batch, threads=threads, seed=job.seed)


def _at_fixed_batch(plans: list[Plan], spec: TensorSpec, *, asked: bool) -> list[Plan]:
    """Models whose batch is fixed can only be measured at that batch."""
    fixed = spec.shape[0] if spec.shape else None
    wrong = next((plan.batch for plan in plans if fixed is not None and plan.batch != fixed), None)
    if fixed is None or wrong is None:
        return plans
    if asked:
        raise RecipeError(
            f"a model's batch is fixed at {fixed}, not {wrong}",
            where="--batch",
            mend="leave the option out, or export the model with a dynamic batch",
        )
    return [replace(plan, batch=fixed) for plan in plans]


def _settings(job: BenchJob) -> Mapping[str, str | int | float | bool | None]:
    plain: dict[str, str | int | float | bool | None] = {}
    for field in fields(job):
        value = getattr(job, field.name)
        plain[field.name] = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return plain


# --- the files -----------------------------------------------------------------------------------------------------


def _arms(job: BenchJob, runtimes: Sequence[str | None], folder: Path) -> list[Arm]:
    arms: list[Arm] = []
    for index, (file, runtime) in enumerate(zip(job.files, runtimes, strict=True)):
        place = folder / str(index)
        place.mkdir()
        artifact, path = copy_model(file, runtime, place, hf_task=job.hf_task, trust_remote_code=job.trust_remote_code)
        name = unique_name(file, runtime, job.files, [arm.name for arm in arms])
        arms.append(Arm(name, "candidate" if arms else "baseline", artifact, path, runtime, device=job.device))
    return arms


def _shared_inputs(arms: Sequence[Arm]) -> tuple[TensorSpec, ...]:
    """What all files take: the first one's names, and sizes that any of them fixes.

    Raises:
        DataError: Two files take different inputs.
    """
    first = arms[0]
    shared = list(first.artifact.inputs)
    for arm in arms[1:]:
        theirs = arm.artifact.inputs
        fits = len(theirs) == len(shared) and all(_fit(one, other) for one, other in zip(shared, theirs, strict=True))
        if not fits:
            raise DataError(
                f"takes {_shapes(theirs)}, and {first.name} {_shapes(first.artifact.inputs)}",
                where=arm.name,
                mend="files that are measured side by side run the same inputs",
            )
        shared = [
            replace(one, shape=tuple(b if a is None else a for a, b in zip(one.shape, other.shape, strict=True)))
            for one, other in zip(shared, theirs, strict=True)
        ]
    return tuple(shared)


def _fit(one: TensorSpec, other: TensorSpec) -> bool:
    return (
        one.dtype == other.dtype
        and len(one.shape) == len(other.shape)
        and all(a is None or b is None or a == b for a, b in zip(one.shape, other.shape, strict=True))
    )


def _shapes(specs: Sequence[TensorSpec]) -> str:
    def text(spec: TensorSpec) -> str:
        return f"{spec.dtype} ({', '.join('any' if size is None else str(size) for size in spec.shape)})"

    return " and ".join(map(text, specs))


# --- data and score ------------------------------------------------------------------------------------------------


def _task(job: BenchJob, arms: Sequence[Arm], inputs: tuple[TensorSpec, ...], batch: int) -> Task:
    from compressor.task.open import open_task, reading_for, scoring_for
    from compressor.task.synthetic import synthetic_task, with_reference

    first = _open(arms[0]).predict
    # A folder has the tokenizer; an ONNX file may lie in one.
    model = next((file for file in job.files if file.is_dir()), job.files[0])
    reading = reading_for(model, hf_task=job.hf_task, text=job.text, target=job.target, max_length=job.max_length)
    if job.data is None:
        if job.metric is not None or job.target is not None:
            raise DataError("needs data", where="--metric" if job.metric else "--target", mend="give --data")
        return synthetic_task(
            inputs,
            first,
            seed=job.seed,
            examples=max(SYNTHETIC_EXAMPLES, batch),
            limits=None if reading is None else limits(reading.folder, reading.max_length),
            scoring=scoring_for(reading, inputs),
        )
    task = open_task(
        job.data,
        metric=job.metric,
        inputs=inputs,
        outputs=arms[0].artifact.outputs,
        target=job.target,
        seed=job.seed,
        reading=reading,
    )
    return with_reference(task, first) if task.test().targets is None else task


def _open(arm: Arm) -> Session:
    from compressor.runtimes.registry import open_session

    return open_session(arm.path, arm.runtime, threads=os.cpu_count() or 1, device=arm.device)


def _judged(arms: Sequence[Arm], task: Task) -> list[Arm]:
    """The arms with the kernels that really run and, where there are data, their scores."""
    found = []
    for arm in arms:
        session = _open(arm)
        score: Score | None = None if task.summary.synthetic else task.evaluate(session.predict)
        found.append(replace(arm, kernels=session.kernels(), score=score))
    return found


# --- the measurement -----------------------------------------------------------------------------------------------


def _measure(
    job: BenchJob, arms: Sequence[Arm], examples: Arrays, plans: Sequence[Plan], listener: Listener | None
) -> tuple[list[BenchRun], bool]:
    """One benchmark per plan; Ctrl-C ends the line and keeps what is finished."""
    twin = replace(arms[0], name=f"{arms[0].name} (A/A)", role="control")
    runs: list[BenchRun] = []
    for plan in plans:
        if listener:
            what = f"{plan.workload.phase}, " if plan.workload else ""
            listener.stage(f"{what}batch {plan.batch}, {plan.threads} thread{'s' * (plan.threads > 1)}", resumed=False)
        try:
            result = run_benchmark(
                [*arms, twin],
                examples,
                plan,
                meters=job.meters,
                watts_per_core=job.watts_per_core,
                on_progress=listener.progress if listener else None,
            )
        except KeyboardInterrupt:
            if not runs:
                raise
            return runs, True
        runs.append(_run(result, job.max_loss))
        if result.interrupted:
            return runs, True
    return runs, False


def _run(result: BenchmarkResult, max_loss: float) -> BenchRun:
    first, *others, twin = result.measurements
    controls = comparing.control(first, twin)
    warnings = []
    if failed := [c.metric for c in controls if not c.passed and c.ci95 is not None]:
        warnings.append(
            f"The A/A control failed on {', '.join(failed)}: two workers on one file differ, so it has no verdict."
        )
    if all(meter.provenance == "estimated" for meter in first.meters):
        sources = "; ".join(f"{meter.name}: {meter.source}" for meter in first.meters)
        warnings.append(f"Energy was not measured here, only estimated ({sources}).")
    return BenchRun(
        measurements=result.measurements,
        control=controls,
        comparisons=tuple(comparing.compare(first, other, controls, max_loss) for other in others),
        warnings=(*warnings, *result.warnings),
    )

"""The whole line: load, export, compress, score, measure, compare, report; each stage leaves its mark."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar

from compressor import compare as comparing
from compressor.benchmark.plan import make_plan
from compressor.benchmark.runner import Arm, BenchmarkResult, run_benchmark
from compressor.environment import cpu_features
from compressor.errors import CompressorError, MeterError, MethodError, RecipeError, nearest
from compressor.meters.base import MeterOptions, energy_between
from compressor.meters.registry import open_ladder, open_meter
from compressor.passes.base import Context
from compressor.passes.registry import make_pass
from compressor.report.headline import headline, warnings_of
from compressor.report.html import render_html
from compressor.report.markdown import render_markdown
from compressor.results import (
    SCHEMA,
    Artifact,
    KernelCounts,
    ModelSummary,
    Parity,
    Report,
    Score,
    StageCost,
    TaskSummary,
)
from compressor.store.records import dump_report
from compressor.store.runfolder import RunFolder, open_run, write_beside
from compressor.task.base import Task
from compressor.task.metrics import metric

TORCH_ARM, ONNX_ARM = "PyTorch fp32", "ONNX fp32"
PARITY_EXAMPLES = 64
PARITY_TOLERANCE = 1e-3
"""Relative; float32 kernels of two runtimes differ by about 1e-6 a layer, an export that is wrong by far more."""
SPACE_PER_MODEL, SPACE_BYTES = 5, 8 * 2**20
"""Disk a run needs at its fullest: two baselines, the quantizer's working copy and the result; and the report."""

T = TypeVar("T")


class Listener(Protocol):
    """Told what is going on."""

    def stage(self, name: str, resumed: bool) -> None:
        """A stage begins, or was found finished."""

    def progress(self, done_s: float, total_s: float, text: str) -> None:
        """How far the measurement is, in seconds."""


@dataclass(frozen=True)
class Job:
    """What is asked for; the fields are the command line's options.

    Attributes:
        model: The model file.
        methods: Compression methods in order.
        data: Data as ``--data`` takes them; ``None`` to measure agreement on synthetic inputs.
        metric: Metric's name or callable; ``None`` to choose by the data.
        target: CSV column that holds the target.
        arch: ``package.module:callable`` or ``file.py:callable`` that builds the module of a state dict.
        input_shapes: Shape of each input without the batch axis, where neither file nor data tell.
        allow_pickle: Whether a pickled module may be loaded, which runs its code.
        max_loss: How much score may be lost, in the score's unit (0.01 is one point of accuracy).
        preset: ``quick``, ``default`` or ``certify``.
        batch: Examples per call; ``None`` for 1, or the model's own if that is fixed.
        threads: Threads of the runtime.
        meters: Meters by name; empty for every measuring one that can be read, else ``cpu-time``.
        watts_per_core: For ``cpu-time``.
        seed: Of everything random.
        out: Folder to write; ``None`` for ``compressed/MODEL-METHOD``.
        overwrite: Start over and replace what is there.
    """

    model: Path
    methods: tuple[str, ...] = ("int8",)
    data: str | None = None
    metric: str | None = None
    target: str | None = None
    arch: str | None = None
    input_shapes: tuple[tuple[int, ...], ...] | None = None
    allow_pickle: bool = False
    max_loss: float = 0.01
    preset: str = "default"
    batch: int | None = None
    threads: int = 1
    meters: tuple[str, ...] = ()
    watts_per_core: float | None = None
    seed: int = 0
    out: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run left.

    Attributes:
        report: Everything it found.
        folder: Where the files are.
        interrupted: Whether Ctrl-C ended the measurement before its last block.
    """

    report: Report
    folder: Path
    interrupted: bool


def run(job: Job, listener: Listener | None = None, command: str = "") -> Outcome:
    """Run the whole line.

    Args:
        job: What is asked for.
        listener: Told of stages and progress.
        command: The command line, for the report.

    Returns:
        The report and the folder that holds it, the compressed model and the baselines.

    Raises:
        CompressorError: Anything in the input that the user can mend; see its subclasses.
        KeyboardInterrupt: Ctrl-C before enough was measured; finished stages stay for the next run.
    """
    return _Line(job, listener, command).run()


def compress(model: str | Path, *, method: str | Sequence[str] = "int8", **options: Any) -> Outcome:
    """Compress a model and measure what that saves: the command line's main job as one call.

    Args:
        model: The model file.
        method: One compression method, or several in order.
        options: Any other field of :class:`Job`, by name.

    Returns:
        The report and the folder that holds it, the compressed model and the baselines.

    Raises:
        CompressorError: Anything in the input that the user can mend; see its subclasses.
    """
    known = {field.name for field in fields(Job)} - {"model", "methods"}
    if unknown := sorted(options.keys() - known):
        raise RecipeError(f"there is no option {unknown[0]!r}", where="compress()", mend=nearest(unknown[0], known))
    if "out" in options and options["out"] is not None:
        options["out"] = Path(options["out"])
    methods = (method,) if isinstance(method, str) else tuple(method)
    return run(Job(model=Path(model), methods=methods, **options))


@dataclass(frozen=True)
class _Exported:
    model: ModelSummary
    artifacts: dict[str, Artifact]
    parity: dict[str, Parity]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Scored:
    task: TaskSummary
    kernels: dict[str, KernelCounts | None]
    scores: dict[str, Score]
    parity: dict[str, Parity]
    notes: tuple[str, ...]


class _Line:
    """One run on its way through the stages."""

    def __init__(self, job: Job, listener: Listener | None, command: str) -> None:
        if not job.methods:
            raise RecipeError("no method was named", where="--method")
        if job.max_loss < 0:
            raise RecipeError(f"must be 0 or more, not {job.max_loss:g}", where="--max-loss")
        self.job, self.listener, self.command = job, listener, command
        # Mistakes in names are told before minutes of work, not after.
        self.passes = [make_pass(name) for name in job.methods]
        self.plan = make_plan(
            job.preset, batch=1 if job.batch is None else job.batch, threads=job.threads, seed=job.seed
        )
        if job.metric is not None:
            metric(job.metric)
        with _Costs(job):
            pass
        self.candidate = "ONNX " + "+".join(job.methods)
        self.task: Task | None = None

    def run(self) -> Outcome:
        from compressor.model.base import safe_name
        from compressor.model.identify import identify

        kind = identify(self.job.model)
        name = "-".join([safe_name(self.job.model), *self.job.methods])
        final = self.job.out or Path("compressed") / name
        with open_run(final, self._settings(), overwrite=self.job.overwrite) as folder:
            folder.require_space(SPACE_BYTES + SPACE_PER_MODEL * self.job.model.stat().st_size)
            exported = self._stage(folder, "export", _Exported, lambda: self._export(folder.path, kind))
            self._take_fixed_batch(exported.artifacts[ONNX_ARM])
            compressed = self._stage(folder, "compress", Artifact, lambda: self._compress(folder.path, exported))
            artifacts = {**exported.artifacts, self.candidate: compressed}
            scored = self._stage(folder, "score", _Scored, lambda: self._score(folder.path, artifacts, exported))
            result = self._stage(
                folder, "measure", BenchmarkResult, lambda: self._measure(folder.path, artifacts, scored, exported)
            )
            costs = [StageCost(**folder.finished(stage)["cost"]) for stage in ("export", "compress", "score")]
            report = self._report(exported, scored, result, costs)
            self._write(folder.path, report)
            return Outcome(report, folder.finish(), result.interrupted)

    # --- the stages --------------------------------------------------------------------------------------------

    def _export(self, folder: Path, kind: Any) -> _Exported:
        from compressor.export import check_parity, describe_onnx, export_onnx, export_program
        from compressor.model.base import OnnxModel
        from compressor.model.identify import FileKind
        from compressor.model.load import load_model
        from compressor.onnx_file import copy_onnx
        from compressor.runtimes.registry import open_session

        job = self.job
        example = None
        tells_its_inputs = kind in (FileKind.EXPORTED_PROGRAM, FileKind.ONNX) or job.input_shapes is not None
        if job.data is not None and not tells_its_inputs:
            self.task = self._open_task(None)
            example = tuple(x[:2] for x in self.task.test().inputs)
        model = load_model(
            job.model, arch=job.arch, example=example, input_shapes=job.input_shapes, allow_pickle=job.allow_pickle
        )
        # Data that do not fit the model are told now, not after the export.
        if job.data is not None:
            self.task = self._open_task(model.inputs)
        baseline = folder / "baseline"
        baseline.mkdir(exist_ok=True)
        artifacts: dict[str, Artifact] = {}
        parity: dict[str, Parity] = {}
        if isinstance(model, OnnxModel):
            copy_onnx(model.path, baseline / "model.onnx")
            artifacts[ONNX_ARM] = describe_onnx(baseline / "model.onnx", (), folder)
            return _Exported(model.summary, artifacts, parity, ())
        artifacts[TORCH_ARM] = _inside(export_program(model, baseline / "model.pt2"), folder, baseline / "model.pt2")
        onnx_artifact = export_onnx(model, baseline / "model.onnx")
        artifacts[ONNX_ARM] = _inside(onnx_artifact, folder, baseline / "model.onnx")
        self._ensure_task(folder, artifacts)
        inputs = self._parity_inputs()
        parity[ONNX_ARM] = check_parity(
            open_session(baseline / "model.pt2", threads=job.threads),
            open_session(baseline / "model.onnx", threads=job.threads),
            inputs,
            reference_name="PyTorch",
            tolerance=PARITY_TOLERANCE,
        )
        notes = tuple(note for step in model.steps for note in step.notes)
        return _Exported(model.summary, artifacts, parity, notes)

    def _compress(self, folder: Path, exported: _Exported) -> Artifact:
        from compressor.export import describe_onnx

        task = self._ensure_task(folder, exported.artifacts)
        context = Context(task, self.job.seed, os.cpu_count() or 1, cpu_features())
        source, steps = folder / "baseline" / "model.onnx", list(exported.artifacts[ONNX_ARM].steps)
        for index, one in enumerate(self.passes):
            last = index == len(self.passes) - 1
            target = folder / "model.onnx" if last else folder / f"stage-{index}-{one.name}.onnx"
            for old in (target, target.with_name(f"{target.name}.data")):
                old.unlink(missing_ok=True)
            steps.append(one.apply(source, target, context))
            source = target
        return describe_onnx(source, tuple(steps), folder)

    def _score(self, folder: Path, artifacts: Mapping[str, Artifact], exported: _Exported) -> _Scored:
        from compressor.export import check_parity
        from compressor.runtimes.registry import open_session

        task = self._ensure_task(folder, artifacts)
        reference_arm = next(iter(artifacts))
        reference = open_session(folder / artifacts[reference_arm].path, threads=os.cpu_count() or 1)
        inputs = self._parity_inputs()
        kernels: dict[str, KernelCounts | None] = {}
        scores: dict[str, Score] = {}
        parity = dict(exported.parity)
        for arm, artifact in artifacts.items():
            first = arm == reference_arm
            session = reference if first else open_session(folder / artifact.path, threads=os.cpu_count() or 1)
            kernels[arm] = session.kernels()
            scores[arm] = task.evaluate(session.predict)
            if arm not in parity and not first:
                parity[arm] = check_parity(reference, session, inputs, reference_name=reference_arm, tolerance=None)
        found = kernels[self.candidate]
        if found is not None and found.low_precision == 0:
            why = "; ".join(sorted(set(found.left.values()))) or "the graph has no such operator"
            raise MethodError(
                f"no operator will run in {found.precision} ({why})",
                where=self.candidate,
                mend="the model is left as it was; try another method",
            )
        notes = (*exported.notes, *getattr(task, "notes", ()))
        return _Scored(task.summary, kernels, scores, parity, notes)

    def _measure(
        self, folder: Path, artifacts: Mapping[str, Artifact], scored: _Scored, exported: _Exported
    ) -> BenchmarkResult:
        def arm(name: str, role: Any, of: str) -> Arm:
            artifact = artifacts[of]
            return Arm(name, role, artifact, folder / artifact.path, None, scored.kernels[of], scored.scores[of])

        arms = [arm(name, "baseline", name) for name in exported.artifacts]
        arms.append(arm(self.candidate, "candidate", self.candidate))
        arms.append(arm(f"{ONNX_ARM} (A/A)", "control", ONNX_ARM))
        result = run_benchmark(
            arms,
            self._ensure_task(folder, artifacts).test().inputs,
            self.plan,
            meters=self.job.meters,
            watts_per_core=self.job.watts_per_core,
            on_progress=self.listener.progress if self.listener else None,
        )
        if result.interrupted and len(result.measurements[0].trials) < comparing.FEWEST_BLOCKS:
            raise KeyboardInterrupt
        return result

    def _report(
        self, exported: _Exported, scored: _Scored, result: BenchmarkResult, costs: Sequence[StageCost]
    ) -> Report:
        by_role = {role: [m for m in result.measurements if m.role == role] for role in ("baseline", "candidate")}
        twin = next(m for m in result.measurements if m.role == "control")
        original = next(m for m in by_role["baseline"] if m.arm == ONNX_ARM)
        controls = comparing.control(original, twin)
        baselines = comparing.fastest_first(by_role["baseline"])
        candidate = by_role["candidate"][0]
        comparisons = tuple(comparing.compare(b, candidate, controls, self.job.max_loss) for b in baselines)
        report = Report(
            schema=SCHEMA,
            tool=f"compressor {version('compressor')}",
            created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            headline="",
            warnings=(),
            model=exported.model,
            task=scored.task,
            methods=self.job.methods,
            parity=scored.parity,
            measurements=result.measurements,
            control=controls,
            comparisons=comparisons,
            stages=tuple(costs),
            break_even=tuple(b for base in baselines for b in comparing.break_even(base, candidate, costs)),
            settings=self._settings(),
            command=self.command,
            notes=tuple(dict.fromkeys(scored.notes)),
        )
        return replace(report, headline=headline(report), warnings=(*warnings_of(report), *result.warnings))

    def _write(self, folder: Path, report: Report) -> None:
        write_beside(folder / "report.json", dump_report(report))
        write_beside(folder / "report.md", render_markdown(report))
        write_beside(folder / "report.html", render_html(report))

    # --- parts -------------------------------------------------------------------------------------------------

    def _stage(self, folder: RunFolder, name: str, kind: type[T], work: Callable[[], T]) -> T:
        """Do a stage under the meters and mark it, or take up what it recorded when it was done before."""
        from pydantic import TypeAdapter

        adapter = TypeAdapter(kind)
        known = folder.finished(name)
        if known is not None:
            record = adapter.validate_python(known["record"])
            if _intact(record, folder.path):
                self._tell(name, resumed=True)
                return record
        self._tell(name, resumed=False)
        with _Costs(self.job) as costs:
            record = work()
        cost = {"stage": name, "elapsed_s": costs.elapsed_s, "cpu_s": costs.cpu_s, "energy_j": costs.energy_j}
        folder.mark(name, {"record": adapter.dump_python(record, mode="json"), "cost": cost})
        return record

    def _tell(self, stage: str, resumed: bool) -> None:
        if self.listener:
            self.listener.stage(stage, resumed)

    def _open_task(self, inputs: Any) -> Task:
        from compressor.task.open import open_task

        job = self.job
        return open_task(job.data or "", metric=job.metric, inputs=inputs, target=job.target, seed=job.seed)

    def _ensure_task(self, folder: Path, artifacts: Mapping[str, Artifact]) -> Task:
        """The task, opened if this run has not opened it yet; without labels the original model is the reference."""
        from compressor.runtimes.registry import open_session
        from compressor.task.synthetic import synthetic_task, with_reference

        first = next(iter(artifacts.values()))
        if self.task is None and self.job.data is not None:
            self.task = self._open_task(first.inputs)
        if self.task is None or self.task.test().targets is None:
            reference = open_session(folder / first.path, threads=os.cpu_count() or 1).predict
            if self.task is None:
                self.task = synthetic_task(first.inputs, reference, seed=self.job.seed)
            else:
                self.task = with_reference(self.task, reference)
        return self.task

    def _parity_inputs(self) -> Any:
        if self.task is None:
            raise CompressorError("there is no task yet")
        return tuple(x[:PARITY_EXAMPLES] for x in self.task.test().inputs)

    def _take_fixed_batch(self, artifact: Artifact) -> None:
        """A model whose batch is fixed can only be measured at that batch."""
        fixed = artifact.inputs[0].shape[0] if artifact.inputs[0].shape else None
        if fixed is None or fixed == self.plan.batch:
            return
        if self.job.batch is not None:
            raise RecipeError(
                f"the model's batch is fixed at {fixed}, not {self.job.batch}",
                where="--batch",
                mend="leave the option out, or export the model with a dynamic batch",
            )
        self.plan = replace(self.plan, batch=fixed)

    def _settings(self) -> dict[str, str | int | float | bool | None]:
        """Every setting, flat; what decides the outcome of the run."""
        job = self.job
        stat = Path(job.data).stat() if job.data and Path(job.data).is_file() else None
        return {
            "model": str(job.model),
            "model_changed": job.model.stat().st_mtime_ns if job.model.exists() else None,
            "methods": ",".join(job.methods),
            "data": job.data,
            "data_changed": stat and stat.st_mtime_ns,
            "metric": job.metric,
            "target": job.target,
            "arch": job.arch,
            "input_shapes": ",".join("x".join(map(str, s)) for s in job.input_shapes or ()) or None,
            "allow_pickle": job.allow_pickle,
            "max_loss": job.max_loss,
            "preset": job.preset,
            "batch": job.batch,
            "threads": job.threads,
            "meters": ",".join(job.meters),
            "watts_per_core": job.watts_per_core,
            "seed": job.seed,
            "version": version("compressor"),
        }


class _Costs:
    """Time and joules of this process while a stage runs: what compressing costs."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.elapsed_s = self.cpu_s = 0.0
        self.energy_j: dict[str, float] = {}

    def __enter__(self) -> _Costs:
        options = MeterOptions(watts_per_core=self.job.watts_per_core)
        with ExitStack() as stack:
            names = self.job.meters
            self._meters = [open_meter(n, options) for n in names] if names else list(open_ladder(options))
            for meter in self._meters:
                stack.callback(meter.close)
            self._before = [meter.read() for meter in self._meters]
            self._stack = stack.pop_all()
        self._started, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *failure: object) -> None:
        self.elapsed_s = time.perf_counter() - self._started
        self.cpu_s = time.process_time() - self._cpu
        with self._stack:
            if failure[0] is not None:
                return
            for meter, before in zip(self._meters, self._before, strict=True):
                try:
                    self.energy_j.update(energy_between(before, meter.read(), meter.info.name))
                except MeterError:
                    continue  # absent: the report then says that the stage's joules are unknown


def _intact(record: object, folder: Path) -> bool:
    """Whether the files that a stage recorded are still what they were."""
    from compressor.export import sha256_of

    artifacts = record.artifacts.values() if isinstance(record, _Exported) else [record]
    files = [(folder / a.path, a.sha256) for a in artifacts if isinstance(a, Artifact)]
    try:
        return all(path.is_file() and sha256_of(path) == sha256 for path, sha256 in files)
    except CompressorError:
        return False


def _inside(artifact: Artifact, folder: Path, path: Path) -> Artifact:
    return replace(artifact, path=str(path.relative_to(folder)))

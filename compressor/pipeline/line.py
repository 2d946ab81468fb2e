"""One run on its way through the stages; each leaves its mark in the run folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from compressor import compare as comparing
from compressor.benchmark.plan import make_plan
from compressor.benchmark.runner import Arm, BenchmarkResult, run_benchmark
from compressor.environment import cpu_features
from compressor.errors import MethodError, RecipeError, nearest
from compressor.passes.base import Context, GraphPass, TorchPass
from compressor.passes.registry import make_pass, works_on_torch
from compressor.pipeline.costs import Costs
from compressor.pipeline.job import Job, Listener, Method, Outcome
from compressor.pipeline.stages import Exported, Made, Scored, intact, prove
from compressor.report.headline import headline, warnings_of
from compressor.report.html import render_html
from compressor.report.markdown import render_markdown
from compressor.results import (
    SCHEMA,
    Artifact,
    KernelCounts,
    Parity,
    Report,
    Score,
    StageCost,
)
from compressor.store.records import dump_report
from compressor.store.runfolder import RunFolder, open_run, write_beside
from compressor.task.base import Task
from compressor.task.metrics import metric

if TYPE_CHECKING:
    from compressor.model.base import Arrays, OnnxModel, TorchModel
    from compressor.results import TensorSpec

TORCH_ARM, ONNX_ARM = "PyTorch fp32", "ONNX fp32"
PARITY_EXAMPLES = 64
PARITY_TOLERANCE = 1e-3
"""Relative; float32 kernels of two runtimes differ by about 1e-6 a layer, an export that is wrong by far more."""
SPACE_PER_MODEL, SPACE_BYTES = 5, 8 * 2**20
"""Disk a run needs at its fullest: two baselines, the quantizer's working copy and the result; and the report."""

T = TypeVar("T")


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


def compress(model: str | Path, *, method: str | Method | Sequence[str | Method] = "int8", **options: Any) -> Outcome:
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
    if options.get("out") is not None:
        options["out"] = Path(options["out"])
    several = [method] if isinstance(method, str | Method) else method
    methods = tuple(one if isinstance(one, Method) else Method(one) for one in several)
    return run(Job(model=Path(model), methods=methods, **options))


class _Line:
    def __init__(self, job: Job, listener: Listener | None, command: str) -> None:
        if not job.methods:
            raise RecipeError("no method was named", where="--method")
        if job.max_loss < 0:
            raise RecipeError(f"must be 0 or more, not {job.max_loss:g}", where="--max-loss")
        self.job, self.listener, self.command = job, listener, command
        # Mistakes in names are told before minutes of work, not after.
        self.passes = [make_pass(one.name, **one.settings) for one in job.methods]
        self._check_order()
        self.plan = make_plan(
            job.preset, batch=1 if job.batch is None else job.batch, threads=job.threads, seed=job.seed
        )
        if job.metric is not None:
            metric(job.metric)
        with Costs(job.meters, job.watts_per_core):
            pass
        self.task: Task | None = None
        self.original: TorchModel | OnnxModel | None = None

    def _check_order(self) -> None:
        graph = ""
        for one in self.job.methods:
            if not works_on_torch(one.name):
                graph = one.name
            elif graph:
                raise RecipeError(
                    f"{one.name} works on the PyTorch model and cannot follow {graph}, which makes an ONNX graph of it",
                    where="--method",
                    mend=f"name {one.name} before {graph}",
                )

    def run(self) -> Outcome:
        from compressor.model.base import safe_name
        from compressor.model.identify import identify

        identify(self.job.model)
        name = "-".join([safe_name(self.job.model), *(one.name for one in self.job.methods)])
        final = self.job.out or Path("compressed") / name
        with open_run(final, self._settings(), overwrite=self.job.overwrite) as folder:
            stages = len(self.passes)
            folder.require_space(SPACE_BYTES + (SPACE_PER_MODEL + 2 * stages) * self.job.model.stat().st_size)
            exported = self._stage(folder, "export", Exported, lambda: self._export(folder.path))
            self._take_fixed_batch(exported.artifacts[ONNX_ARM])
            scored = self._stage(folder, "score", Scored, lambda: self._score(folder.path, exported))
            chain: list[Made] = []
            for index, one in enumerate(self.job.methods):
                work = self._work(folder.path, index, chain, exported)
                chain.append(self._stage(folder, self._stage_name(index, one), Made, work))
            chosen, undone = self._choose(chain, scored)
            result = self._stage(
                folder,
                "measure",
                BenchmarkResult,
                lambda: self._measure(folder.path, exported, scored, chain, chosen),
            )
            names = ["export", "score", *(self._stage_name(i, one) for i, one in enumerate(self.job.methods))]
            costs = [StageCost(**folder.finished(stage)["cost"]) for stage in names]
            report = self._report(exported, scored, chain, chosen, result, costs, undone)
            self._deliver(folder.path, chosen, report)
            return Outcome(report, folder.finish(), result.interrupted)

    @staticmethod
    def _stage_name(index: int, method: Method) -> str:
        return f"{index + 1}-{method.name}"

    # --- the stages --------------------------------------------------------------------------------------------

    def _export(self, folder: Path) -> Exported:
        from compressor.export import check_parity, describe_onnx, export_onnx, export_program
        from compressor.model.base import OnnxModel
        from compressor.onnx_file import copy_onnx
        from compressor.runtimes.registry import open_session

        model = self._load()
        # Data that do not fit the model are told now, not after the export.
        if self.job.data is not None:
            self.task = self._open_task(model.inputs)
        baseline = folder / "baseline"
        baseline.mkdir(exist_ok=True)
        artifacts: dict[str, Artifact] = {}
        parity: dict[str, Parity] = {}
        if isinstance(model, OnnxModel):
            copy_onnx(model.path, baseline / "model.onnx")
            artifacts[ONNX_ARM] = describe_onnx(baseline / "model.onnx", (), folder)
            return Exported(model.summary, artifacts, parity, ())
        artifacts[TORCH_ARM] = _inside(export_program(model, baseline / "model.pt2"), folder, baseline / "model.pt2")
        artifacts[ONNX_ARM] = _inside(export_onnx(model, baseline / "model.onnx"), folder, baseline / "model.onnx")
        task = self._ensure_task(folder, artifacts)
        parity[ONNX_ARM] = check_parity(
            open_session(baseline / "model.pt2", threads=self.job.threads),
            open_session(baseline / "model.onnx", threads=self.job.threads),
            _some(task),
            reference_name="PyTorch",
            tolerance=PARITY_TOLERANCE,
        )
        notes = tuple(note for step in model.steps for note in step.notes)
        return Exported(model.summary, artifacts, parity, notes)

    def _score(self, folder: Path, exported: Exported) -> Scored:
        from compressor.runtimes.registry import open_session

        task = self._ensure_task(folder, exported.artifacts)
        kernels: dict[str, KernelCounts | None] = {}
        scores: dict[str, Score] = {}
        for arm, artifact in exported.artifacts.items():
            session = open_session(folder / artifact.path, threads=os.cpu_count() or 1)
            kernels[arm] = session.kernels()
            scores[arm] = task.evaluate(session.predict)
        return Scored(task.summary, kernels, scores, (*exported.notes, *getattr(task, "notes", ())))

    def _work(self, folder: Path, index: int, chain: Sequence[Made], exported: Exported) -> Callable[[], Made]:
        return lambda: self._compress(folder, index, chain, exported)

    def _compress(self, folder: Path, index: int, chain: Sequence[Made], exported: Exported) -> Made:
        """Apply one method to what the methods before it made, export and score the result."""
        from compressor.export import check_parity, describe_onnx, export_onnx, export_program
        from compressor.runtimes.registry import open_session

        task = self._ensure_task(folder, exported.artifacts)
        name = self.job.methods[index].name
        place = folder / "stages" / self._stage_name(index, self.job.methods[index])
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        program: Path | None = None
        target = place / "model.onnx"
        if works_on_torch(name):
            torch_pass = cast(TorchPass, self.passes[index])
            model = torch_pass.apply(self._torch_model(folder, chain), self._context(task, folder, torch=True))
            program = place / "model.pt2"
            export_program(model, program)
            artifact = _inside(export_onnx(model, target), folder, target)
        else:
            before = chain[-1].artifact if chain else exported.artifacts[ONNX_ARM]
            graph_pass = cast(GraphPass, self.passes[index])
            step = graph_pass.apply(folder / before.path, target, self._context(task, folder, torch=False))
            artifact = describe_onnx(target, (*before.steps, step), folder)
        arm = "ONNX " + "+".join(one.name for one in self.job.methods[: index + 1])
        session = open_session(target, threads=os.cpu_count() or 1)
        kernels = session.kernels()
        if not works_on_torch(name):
            prove(name, arm, artifact, kernels)
        first = next(iter(exported.artifacts))
        reference = open_session(folder / exported.artifacts[first].path, threads=os.cpu_count() or 1)
        parity = check_parity(reference, session, _some(task), reference_name=first, tolerance=None)
        where = None if program is None else str(program.relative_to(folder))
        return Made(arm, artifact, where, kernels, task.evaluate(session.predict), parity)

    def _choose(self, chain: Sequence[Made], scored: Scored) -> tuple[Made, str]:
        """The last stage whose score is within the margin; the last of all if none is."""
        before = scored.scores[ONNX_ARM]
        losses = [(before.value - m.score.value) * (1 if before.higher_is_better else -1) for m in chain]
        within = [made for made, loss in zip(chain, losses, strict=True) if loss <= self.job.max_loss]
        if not within or within[-1] is chain[-1]:
            return chain[-1], ""
        return within[-1], (
            f"{chain[-1].arm} lost {losses[-1]:.3g} {before.name} ({before.unit}), more than the margin of "
            f"{self.job.max_loss:g}: the result is {within[-1].arm}."
        )

    def _measure(
        self, folder: Path, exported: Exported, scored: Scored, chain: Sequence[Made], chosen: Made
    ) -> BenchmarkResult:
        def arm(name: str, role: Any, of: str) -> Arm:
            artifact = exported.artifacts[of]
            return Arm(name, role, artifact, folder / artifact.path, None, scored.kernels[of], scored.scores[of])

        arms = [arm(name, "baseline", name) for name in exported.artifacts]
        for made in chain:
            role: Any = "candidate" if made is chosen else "stage"
            arms.append(Arm(made.arm, role, made.artifact, folder / made.artifact.path, None, made.kernels, made.score))
        arms.append(arm(f"{ONNX_ARM} (A/A)", "control", ONNX_ARM))
        result = run_benchmark(
            arms,
            self._ensure_task(folder, exported.artifacts).test().inputs,
            self.plan,
            meters=self.job.meters,
            watts_per_core=self.job.watts_per_core,
            on_progress=self.listener.progress if self.listener else None,
        )
        if result.interrupted and len(result.measurements[0].trials) < comparing.FEWEST_BLOCKS:
            raise KeyboardInterrupt
        return result

    def _report(
        self,
        exported: Exported,
        scored: Scored,
        chain: Sequence[Made],
        chosen: Made,
        result: BenchmarkResult,
        costs: Sequence[StageCost],
        undone: str,
    ) -> Report:
        # In the run folder the chosen model is model.onnx itself; the record names the file as it is delivered.
        measurements = tuple(
            replace(m, artifact=replace(m.artifact, path="model.onnx")) if m.arm == chosen.arm else m
            for m in result.measurements
        )
        of = {m.arm: m for m in measurements}
        original, candidate = of[ONNX_ARM], of[chosen.arm]
        twin = next(m for m in measurements if m.role == "control")
        controls = comparing.control(original, twin)
        baselines = comparing.fastest_first([m for m in measurements if m.role == "baseline"])
        report = Report(
            schema=SCHEMA,
            tool=f"compressor {version('compressor')}",
            created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            headline="",
            warnings=(),
            model=exported.model,
            task=scored.task,
            methods=tuple(one.name for one in self.job.methods),
            parity={**exported.parity, **{made.arm: made.parity for made in chain}},
            measurements=measurements,
            control=controls,
            comparisons=tuple(comparing.compare(b, candidate, controls, self.job.max_loss) for b in baselines),
            stages=tuple(costs),
            break_even=tuple(b for base in baselines for b in comparing.break_even(base, candidate, costs)),
            settings=self._settings(),
            command=self.command,
            notes=tuple(dict.fromkeys(scored.notes)),
        )
        warnings = (*([undone] if undone else []), *warnings_of(report), *result.warnings)
        return replace(report, headline=headline(report), warnings=warnings)

    def _deliver(self, folder: Path, chosen: Made, report: Report) -> None:
        """Put the chosen model in its place and write the report."""
        place = (folder / chosen.artifact.path).parent
        for file in place.iterdir():
            target = folder / file.name
            target.unlink(missing_ok=True)
            # A second name, not a second copy; the stage's own name goes with its folder below.
            os.link(file, target)
        if len(self.passes) == 1:
            shutil.rmtree(folder / "stages")
        shutil.rmtree(folder / "work", ignore_errors=True)
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
            found = adapter.validate_python(known["record"])
            if intact(found, folder.path):
                self._tell(name, resumed=True)
                return found
        self._tell(name, resumed=False)
        with Costs(self.job.meters, self.job.watts_per_core) as costs:
            record = work()
        cost = StageCost(name, costs.elapsed_s, costs.cpu_s, costs.energy_j)
        folder.mark(name, {"record": adapter.dump_python(record, mode="json"), "cost": asdict(cost)})
        return record

    def _tell(self, stage: str, resumed: bool) -> None:
        if self.listener:
            self.listener.stage(stage, resumed)

    def _load(self) -> TorchModel | OnnxModel:
        """The user's model, loaded once."""
        from compressor.model.identify import identify
        from compressor.model.load import load_model

        job, example = self.job, None
        if self.original is None:
            if job.data is not None and not identify(job.model).has_signature and job.input_shapes is None:
                self.task = self._open_task(None)
                example = tuple(x[:2] for x in self.task.test().inputs)
            self.original = load_model(
                job.model, arch=job.arch, example=example, input_shapes=job.input_shapes, allow_pickle=job.allow_pickle
            )
        return self.original

    def _torch_model(self, folder: Path, chain: Sequence[Made]) -> TorchModel:
        """What a torch method works on: the user's model, or what the method before made of it."""
        from compressor.model.base import OnnxModel
        from compressor.model.load import load_model

        original = self._load()
        if isinstance(original, OnnxModel):
            names = ", ".join(one.name for one in self.job.methods if works_on_torch(one.name))
            raise MethodError(
                "needs the PyTorch model, and the file is ONNX", where=names, mend="give the model it was exported from"
            )
        if not chain or chain[-1].program is None:
            return original
        made = load_model(folder / chain[-1].program)
        if isinstance(made, OnnxModel):
            raise MethodError("did not leave a PyTorch model", where=chain[-1].arm)
        return replace(made, name=original.name, steps=chain[-1].artifact.steps, summary=original.summary)

    def _context(self, task: Task, folder: Path, *, torch: bool) -> Context:
        from compressor.model.base import TorchModel

        work = folder / "work"
        work.mkdir(exist_ok=True)
        teacher = self._load() if torch else None
        return Context(
            task,
            self.job.seed,
            os.cpu_count() or 1,
            cpu_features(),
            workdir=work,
            teacher=teacher if isinstance(teacher, TorchModel) else None,
            batch=self.plan.batch,
            run_threads=self.job.threads,
        )

    def _open_task(self, inputs: tuple[TensorSpec, ...] | None) -> Task:
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
        own = {
            f"{self._stage_name(index, method)}.{field.name}": _plain(getattr(one, field.name))
            for index, (method, one) in enumerate(zip(job.methods, self.passes, strict=True))
            for field in fields(one)  # type: ignore[arg-type]
        }
        return {
            "model": str(job.model),
            "model_changed": job.model.stat().st_mtime_ns if job.model.exists() else None,
            "methods": ",".join(one.name for one in job.methods),
            **own,
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


def _plain(value: object) -> str | int | float | bool | None:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _some(task: Task) -> Arrays:
    return tuple(x[:PARITY_EXAMPLES] for x in task.test().inputs)


def _inside(artifact: Artifact, folder: Path, path: Path) -> Artifact:
    return replace(artifact, path=str(path.relative_to(folder)))

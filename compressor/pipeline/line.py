"""One run on its way through the stages; each leaves its mark in the run folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from compressor import compare as comparing
from compressor import processes
from compressor.benchmark.plan import make_plan
from compressor.benchmark.runner import Arm, BenchmarkResult, run_benchmark
from compressor.environment import cpu_features
from compressor.errors import CompressorError, RecipeError
from compressor.model.identify import identify
from compressor.passes.base import Context, FilePass, GraphPass, TorchPass
from compressor.passes.registry import make_pass, works_on_torch, writes_torch_file
from compressor.pipeline.arms import TWIN, spread
from compressor.pipeline.checks import check_order, chosen_runtimes
from compressor.pipeline.costs import Costs
from compressor.pipeline.deliver import deliver
from compressor.pipeline.inputs import Inputs
from compressor.pipeline.job import Job, Listener, Outcome
from compressor.pipeline.moved import moved
from compressor.pipeline.settings import deciding, settings_of, size_bytes, stage_name
from compressor.pipeline.stages import Exported, Made, Scored, intact, prove, with_macs
from compressor.pipeline.timing import CallTimer
from compressor.pipeline.together import Together
from compressor.report.headline import at_chance, headline, warnings_of
from compressor.results import (
    SCHEMA,
    Artifact,
    KernelCounts,
    Parity,
    Report,
    Score,
    StageCost,
)
from compressor.store.runfolder import RunFolder, open_run
from compressor.task.base import Task
from compressor.task.language import PERPLEXITY
from compressor.task.metrics import metric

if TYPE_CHECKING:
    from compressor.model.base import Arrays, TorchModel

TORCH_ARM, ONNX_ARM = "PyTorch fp32", "ONNX fp32"
PARITY_EXAMPLES, PARITY_TEXTS = 64, 8
"""Examples whose outputs are compared; fewer where each has an output per token, which is large."""
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
        SystemExit: This process only helps another one to train, see :mod:`compressor.pipeline.together`.
    """
    line = _Line(job, listener, command)
    if processes.follows():
        line.together.follow(line.apply)
    return line.run()


class _Line:
    def __init__(self, job: Job, listener: Listener | None, command: str) -> None:
        if not job.methods:
            raise RecipeError("no method was named", where="--method")
        comparing.require_margin(job.max_loss)
        from compressor.model.hf_folder import resolve

        # A name on the hub is a folder from here on.
        model = resolve(job.model, allow_pickle=job.allow_pickle, trust_remote_code=job.trust_remote_code)
        job = replace(job, model=model)
        self.job, self.listener, self.command = job, listener, command
        # Mistakes in names are told before minutes of work, not after.
        self.passes = [make_pass(one.name, **one.settings) for one in job.methods]
        names = [one.name for one in job.methods]
        check_order(job.methods, identify(model))
        self.runtimes = chosen_runtimes(names, self.passes, job.runtimes, job.device)
        self.plan = make_plan(
            job.preset, batch=1 if job.batch is None else job.batch, threads=job.threads, seed=job.seed
        )
        if job.metric not in (None, PERPLEXITY):
            metric(job.metric)
        with Costs(job.meters, job.watts_per_core):
            pass
        self.inputs = Inputs(job)
        self.together = Together(self.passes)

    def run(self) -> Outcome:
        from compressor.model.base import safe_name
        from compressor.model.hf_folder import folder_name

        job = self.job
        own = folder_name(job.model) if job.model.is_dir() else safe_name(job.model)
        final = job.out or Path("compressed") / "-".join([own, *(one.name for one in job.methods)])
        deciding_on = partial(deciding, settings_of(job, self.passes))
        with open_run(final, deciding_on, overwrite=job.overwrite) as folder:
            folder.require_space(SPACE_BYTES + (SPACE_PER_MODEL + 2 * len(self.passes)) * size_bytes(job.model))
            chain: list[Made] = []
            try:
                exported = self._stage(folder, "export", Exported, lambda: self._export(folder.path))
                self._take_fixed_batch(exported.artifacts[ONNX_ARM])
                scored = self._stage(folder, "score", Scored, lambda: self._score(folder.path, exported))
                for index, one in enumerate(self.job.methods):
                    work = partial(self._compress, folder.path, index, chain, exported)
                    chain.append(self._stage(folder, stage_name(index, one.name), Made, work))
                    self.together.part_after(index)
            except CompressorError as error:
                if not chain:  # the mended command is another one, and would only find this in its way
                    folder.forget()
                else:
                    kept = f"{chain[-1].arm} is kept in {folder.path}: any methods after it go on from there"
                    error.mend = kept if error.mend is None else f"{error.mend}; {kept}"
                raise
            chosen, undone = self._choose(chain, scored)
            measure = partial(self._measure, folder.path, exported, scored, chain, chosen)
            result = self._stage(folder, "measure", BenchmarkResult, measure)
            names = ["export", "score", *(stage_name(i, one.name) for i, one in enumerate(self.job.methods))]
            costs = [StageCost(**folder.finished(stage)["cost"]) for stage in names]
            report = self._report(exported, scored, chain, chosen, result, costs, undone)
            pair = {ONNX_ARM: exported.artifacts[ONNX_ARM], chosen.arm: chosen.artifact}
            task = self.inputs.task(folder.path, exported.artifacts)
            confusion = moved(folder.path, pair, task)
            report = replace(report, confusion=confusion, warnings=(*at_chance(confusion), *report.warnings))
            deliver(folder.path, chosen, report, stages=names[2:] if len(self.passes) > 1 else ())
            return Outcome(report, folder.finish(), result.interrupted)

    # --- the stages --------------------------------------------------------------------------------------------

    def _export(self, folder: Path) -> Exported:
        from compressor.export import check_parity, describe_onnx, export_onnx, export_torch
        from compressor.model.base import OnnxModel
        from compressor.model.hf_folder import CONFIG, copy_companions
        from compressor.onnx_file import copy_onnx
        from compressor.runtimes.registry import open_session

        model, given, baseline = self.inputs.model(), self.job.model, folder / "baseline"
        baseline.mkdir(exist_ok=True)
        artifacts: dict[str, Artifact] = {}
        parity: dict[str, Parity] = {}
        if isinstance(model, OnnxModel):
            copy_onnx(model.path, baseline / "model.onnx")
            artifacts[ONNX_ARM] = describe_onnx(baseline / "model.onnx", (), folder)
            if (given.parent / CONFIG).is_file():
                copy_companions(given.parent, baseline)
            task = self.inputs.task(folder, artifacts)
            return Exported(model.summary, with_macs(artifacts, folder, task), parity, ())
        artifacts[TORCH_ARM] = _inside(export_torch(model, baseline), folder, baseline)
        artifacts[ONNX_ARM] = _inside(export_onnx(model, baseline / "model.onnx"), folder, baseline)
        if given.is_dir():
            copy_companions(given, baseline)
        task = self.inputs.task(folder, artifacts)
        parity[ONNX_ARM] = check_parity(
            open_session(folder / artifacts[TORCH_ARM].path, threads=self.job.threads),
            open_session(folder / artifacts[ONNX_ARM].path, threads=self.job.threads),
            _some(task),
            reference_name="PyTorch",
            tolerance=PARITY_TOLERANCE,
        )
        notes = tuple(note for step in model.steps for note in step.notes)
        return Exported(model.summary, with_macs(artifacts, folder, task), parity, notes)

    def _score(self, folder: Path, exported: Exported) -> Scored:
        from compressor.runtimes.registry import open_session

        task = self.inputs.task(folder, exported.artifacts)
        kernels: dict[str, KernelCounts | None] = {}
        scores: dict[str, Score] = {}
        for arm, artifact in exported.artifacts.items():
            session = open_session(folder / artifact.path, threads=os.cpu_count() or 1)
            kernels[arm] = session.kernels()
            scores[arm] = task.evaluate(session.predict)
        return Scored(task.summary, kernels, scores, (*exported.notes, *getattr(task, "notes", ())))

    def _compress(self, folder: Path, index: int, chain: Sequence[Made], exported: Exported) -> Made:
        """Apply one method to what the methods before it made, export and score the result."""
        from compressor.export import check_parity, counted, describe_onnx, export_onnx, export_torch
        from compressor.model.hf_folder import CONFIG, copy_companions
        from compressor.runtimes.registry import open_session
        from compressor.torchao_file import describe_torchao

        task = self.inputs.task(folder, exported.artifacts)
        name = self.job.methods[index].name
        place = folder / "stages" / stage_name(index, self.job.methods[index].name)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        program: str | None = None
        target = place / "model.onnx"
        before = chain[-1].artifact if chain else exported.artifacts[ONNX_ARM]
        if writes_torch_file(name):
            target = place / "model.safetensors"
            model = self.inputs.torch_model(folder, chain)
            step = cast(FilePass, self.passes[index]).apply(model, target, self._context(task, folder, torch=True))
            artifact = describe_torchao(target, model.summary.parameters, (*model.steps, step), folder)
            # Other kernels for the same products.
            artifact = replace(artifact, macs=before.macs, macs_shapes=before.macs_shapes)
        elif works_on_torch(name):
            model = self.together.do(self.apply, folder, index, chain, exported)
            program = _inside(export_torch(model, place), folder, place).path
            artifact = _inside(export_onnx(model, target), folder, place)
        else:
            graph_pass = cast(GraphPass, self.passes[index])
            step = graph_pass.apply(folder / before.path, target, self._context(task, folder, torch=False))
            artifact = describe_onnx(target, (*before.steps, step), folder)
        if target.suffix == ".onnx":
            artifact = counted(artifact, target, task.test().inputs)
        if not works_on_torch(name) or (place / CONFIG).is_file():
            copy_companions((folder / before.path).parent, place)
        arm = "+".join(one.name for one in self.job.methods[: index + 1])
        arm = f"PyTorch {arm}" if writes_torch_file(name) else f"ONNX {arm}"
        # What torchao makes for a GPU runs nowhere else; all other files are scored on the CPU first.
        device = self.job.device if writes_torch_file(name) else "cpu"
        session = open_session(target, threads=os.cpu_count() or 1, device=device)
        kernels = session.kernels()
        if not works_on_torch(name):
            prove(name, arm, artifact, kernels)
        first = next(iter(exported.artifacts))
        reference = open_session(folder / exported.artifacts[first].path, threads=os.cpu_count() or 1)
        parity = check_parity(reference, session, _some(task), reference_name=first, tolerance=None)
        return Made(arm, artifact, program, kernels, task.evaluate(session.predict), parity)

    def apply(self, folder: Path, index: int, chain: Sequence[Made], exported: Exported) -> TorchModel:
        """Apply a method on the PyTorch model; the work that several processes share."""
        context = self._context(self.inputs.task(folder, exported.artifacts), folder, torch=True)
        return cast(TorchPass, self.passes[index]).apply(self.inputs.torch_model(folder, chain), context)

    def _choose(self, chain: Sequence[Made], scored: Scored) -> tuple[Made, str]:
        """The last stage whose score is within the margin, or the one that lost least; and what is to be said of it."""
        before = scored.scores[ONNX_ARM]
        losses = [(before.value - m.score.value) * (1 if before.higher_is_better else -1) for m in chain]
        within = [index for index, loss in enumerate(losses) if loss <= self.job.max_loss]
        best = within[-1] if within else min(range(len(chain)), key=lambda index: (losses[index], -index))
        if len(chain) == 1 or (within and best == len(chain) - 1):
            return chain[best], ""
        behind = range(best + 1 if within else 0, len(chain))
        lost = [f"{chain[index].arm} lost {losses[index]:.3g}" for index in behind]
        return chain[best], (
            f"{', '.join(lost)} {before.name} ({before.unit}), more than the margin of "
            f"{self.job.max_loss:g}: the result is {chain[best].arm}."
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
        result = run_benchmark(
            spread(arms, self.runtimes, self.job.device, lambda: self.inputs.task(folder, exported.artifacts)),
            self.inputs.task(folder, exported.artifacts).test().inputs,
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
            replace(m, artifact=replace(m.artifact, path=Path(m.artifact.path).name))
            if m.artifact.path == chosen.artifact.path
            else m
            for m in result.measurements
        )
        candidate = next(m for m in measurements if m.role == "candidate")
        twin = next(m for m in measurements if m.role == "control")
        original = next(m for m in measurements if m.arm == twin.arm.removesuffix(TWIN))
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
            settings=settings_of(self.job, self.passes),
            command=self.command,
            notes=tuple(dict.fromkeys(scored.notes)),
        )
        warnings = (*([undone] if undone else []), *warnings_of(report), *result.warnings)
        return replace(report, headline=headline(report), warnings=warnings)

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

    def _context(self, task: Task, folder: Path, *, torch: bool) -> Context:
        from compressor.model.base import TorchModel

        work = folder / "work"
        work.mkdir(exist_ok=True)
        teacher = self.inputs.model() if torch else None
        timer = CallTimer(task, work, batch=self.plan.batch, threads=self.job.threads)
        return Context(
            task,
            self.job.seed,
            max(1, (os.cpu_count() or 1) // processes.count_here()),
            cpu_features(),
            workdir=work,
            teacher=teacher if isinstance(teacher, TorchModel) else None,
            batch=self.plan.batch,
            run_threads=self.job.threads,
            device=self.job.device,
            measure=self.together.agreed(timer) if torch else None,
            on_progress=self.listener.progress if self.listener else None,
        )

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


def _some(task: Task) -> Arrays:
    count = PARITY_EXAMPLES if getattr(task, "scoring", None) is None else PARITY_TEXTS
    return tuple(x[:count] for x in task.test().inputs)


def _inside(artifact: Artifact, folder: Path, place: Path) -> Artifact:
    """The record with its path relative to the run folder instead of the file's own place."""
    return replace(artifact, path=str((place / artifact.path).relative_to(folder)))

"""What is measured of a case: files in the cache, each with a record of its score, how it came about and what it cost.

An arm that could not be made has a record too, with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cases import CASES, ROOT
from benchmarks.fetch import HERE, cache, environment
from compressor.environment import cpu_features
from compressor.errors import CompressorError, MethodError
from compressor.model.signature import one_line
from compressor.results import Artifact, KernelCounts, Score
from compressor.store.runfolder import write_beside

if TYPE_CHECKING:
    from compressor.model.base import TorchModel
    from compressor.passes.base import Context
    from compressor.task.base import Task

THREADS = int(os.environ.get("BENCHMARK_THREADS", "2"))
"""Threads to train and score with: the same everywhere, as sums depend on it."""

PYTORCH, ONNX = "PyTorch fp32", "ONNX fp32"
INT8, MIX, MIX_FP32 = "int8", "mix", "mix before int8"
FOLDERS = {PYTORCH: "pytorch", ONNX: "fp32", INT8: "int8", MIX_FP32: "mix-fp32", MIX: "mix"}


@dataclass(frozen=True)
class Made:
    """One arm.

    Attributes:
        name: The arm's name.
        artifact: Its file and how it came about; ``None`` if it could not be made.
        score: On the whole test part.
        kernels: Which arithmetic really runs.
        seconds: What making it took, training included; on whatever else the machine did meanwhile.
        about: How it was made, where its steps do not say so.
        error: Why it could not be made.
        runtime: What runs it; ``None`` for the usual runtime of its format.
    """

    name: str
    artifact: Artifact | None
    score: Score | None = None
    kernels: KernelCounts | None = None
    seconds: float = 0.0
    about: str = ""
    error: str = ""
    runtime: str | None = None


def folder_of(case: str) -> Path:
    """Where a case's files are."""
    folder = cache() / "arms" / case
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save(case: str, made: Made) -> Made:
    """Keep an arm's record."""
    write_beside(_record(case, made.name), json.dumps(asdict(made)) + "\n")
    loss = ""
    if made.score is not None:
        loss = f"{made.score.name} {made.score.value:.2%}"
    print(f"  {case}: {made.name}: {made.error or loss}, {made.seconds:.0f} s", flush=True)
    return made


def known(case: str, name: str) -> Made | None:
    """An arm that was made before and whose file is still there."""
    from pydantic import TypeAdapter

    path = _record(case, name)
    if not path.exists():
        return None
    made = TypeAdapter(Made).validate_json(path.read_bytes())
    return None if made.artifact is not None and not (folder_of(case) / made.artifact.path).exists() else made


def _record(case: str, name: str) -> Path:
    return folder_of(case) / f"{name.lower().replace(' ', '-')}.json"


def elsewhere(case: str) -> dict[str, tuple[str, str]]:
    """Name of each arm that runs a file on another runtime, to the file's own arm and that runtime."""
    return {f"{arm} on {runtime}": (arm, runtime) for arm, runtime in CASES[case].elsewhere}


class Workshop:
    """Makes a case's arms; model and data are loaded once."""

    def __init__(self, name: str) -> None:
        self.name, self.case = name, CASES[name]
        self.folder = folder_of(name)
        self._model: TorchModel | None = None
        self._task: Task | None = None

    @property
    def model(self) -> TorchModel:
        """The trained model; trained now if it is not in the cache."""
        from compressor.model.load import load_model

        if self._model is None:
            self._model = load_model(self.case.make())
        return self._model

    @property
    def task(self) -> Task:
        """The case's data."""
        from compressor.task.open import open_task

        if self._task is None:
            self._task = open_task(self.case.data, inputs=self.model.inputs)
        return self._task

    def judge(self, name: str, artifact: Artifact, seconds: float, about: str = "") -> Made:
        """Score a file on the whole test part and keep the record."""
        from compressor.runtimes.registry import open_session

        session = open_session(self.folder / artifact.path, threads=THREADS)
        score = self.task.evaluate(session.predict)
        return save(self.name, Made(name, artifact, score, session.kernels(), seconds, about))

    def baselines(self) -> None:
        """The trained model as the user has it, and as ONNX."""
        from compressor.export import check_parity, export_onnx, export_torch
        from compressor.runtimes.registry import open_session

        started = time.perf_counter()
        program = _within(export_torch(self.model, self._place(PYTORCH)), FOLDERS[PYTORCH])
        graph = _within(export_onnx(self.model, self._place(ONNX) / "model.onnx"), FOLDERS[ONNX])
        spent = time.perf_counter() - started
        sessions = [open_session(self.folder / made.path, threads=THREADS) for made in (program, graph)]
        some = tuple(x[:64] for x in self.task.test().inputs)
        check_parity(*sessions, some, reference_name=PYTORCH, tolerance=1e-3)
        self.judge(PYTORCH, program, spent)
        self.judge(ONNX, graph, spent)

    def trained(self) -> None:
        """The recipe's methods on the PyTorch model, exported."""
        from compressor.export import export_onnx
        from compressor.passes.registry import make_pass, works_on_torch

        model, started = self.model, time.perf_counter()
        for method, settings in self.steps():
            if works_on_torch(method):
                model = make_pass(method, **settings).apply(model, self.context())
                print(f"  {self.name}: {method}: {' '.join(model.steps[-1].notes)}", flush=True)
        graph = export_onnx(model, self._place(MIX_FP32) / "model.onnx")
        self.judge(MIX_FP32, _within(graph, FOLDERS[MIX_FP32]), time.perf_counter() - started)

    def quantized(self) -> None:
        """int8 of the original, and the rest of the recipe on what :meth:`trained` made.

        int8 decides by timing what pays, so this wants a machine that does nothing else.
        """
        from compressor.passes.registry import works_on_torch

        last = [(method, settings) for method, settings in self.steps() if not works_on_torch(method)]
        self._on_graph(INT8, ONNX, [("int8", {})])
        self._on_graph(MIX, MIX_FP32, last)

    def _on_graph(self, name: str, source: str, steps: list[tuple[str, dict[str, Any]]]) -> None:
        from compressor.export import describe_onnx
        from compressor.passes.registry import make_pass

        before = known(self.name, source)
        if before is None or before.artifact is None:
            raise MethodError(f"{source} is not made yet", where=self.name, mend="run it without --only")
        path, done, seconds, place = self.folder / before.artifact.path, before.artifact.steps, 0.0, self._place(name)
        for number, (method, settings) in enumerate(steps, 1 - len(steps)):
            # The last is number 0.
            made = place / ("model.onnx" if number == 0 else f"stage{number}.onnx")
            started = time.perf_counter()
            step = make_pass(method, **settings).apply(path, made, self.context())
            done, path, seconds = (*done, step), made, seconds + time.perf_counter() - started
        self.judge(name, describe_onnx(path, done, self.folder), before.seconds + seconds)

    def peers(self) -> None:
        """What a user would pick instead, made in an environment of its own."""
        import numpy as np

        from compressor.export import describe_onnx

        python = environment("peers-env", HERE / "peers" / "requirements.txt", constraints=ROOT / "constraints.txt")
        some = [x[:300] for x in self.task.calibration().inputs]
        np.savez(
            self.folder / "calibration.npz", **{spec.name: x for spec, x in zip(self.model.inputs, some, strict=True)}
        )
        epochs = str(self.case.peer_epochs)
        made = self.folder / "peers"
        made.mkdir(exist_ok=True)
        command = [str(python), "-m", "benchmarks.peers.make", self.name, str(self.folder), epochs, str(THREADS)]
        # Threads that wait give their core away: two that spin for each other on a busy machine stand still.
        subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
        for name, found in json.loads((made / "peers.json").read_bytes()).items():
            file, error = made / found["file"], found["error"]
            if not error:
                try:
                    self.judge(name, describe_onnx(file, (), self.folder), found["seconds"], found["about"])
                    continue
                except Exception as failure:
                    error = f"{type(failure).__name__}: {one_line(failure)}"
            save(self.name, Made(name, None, seconds=found["seconds"], about=found["about"], error=error))

    def runtimes(self) -> None:
        """Files that are there already, on other runtimes."""
        from compressor.runtimes.registry import open_session

        for name, (source, runtime) in elsewhere(self.name).items():
            made = known(self.name, source)
            if made is None or made.artifact is None:
                raise MethodError(f"{source} is not made yet", where=self.name, mend="run it without --only")
            try:
                session = open_session(self.folder / made.artifact.path, runtime, threads=THREADS)
                score = self.task.evaluate(session.predict)
                save(self.name, replace(made, name=name, score=score, kernels=session.kernels(), runtime=runtime))
            except CompressorError as failure:
                save(self.name, Made(name, None, error=str(failure)))

    def _place(self, name: str) -> Path:
        """An empty folder for an arm's files."""
        place = self.folder / FOLDERS[name]
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place

    def steps(self) -> list[tuple[str, dict[str, Any]]]:
        """The recipe's methods, with what the case changes in them."""
        from compressor.recipe import load_recipe

        found = load_recipe(ROOT / "recipes" / f"{self.case.recipe}.yaml").steps()
        return [(method, {**settings, **self.case.changed.get(method, {})}) for method, settings in found]

    def context(self) -> Context:
        """What the methods may use."""
        from compressor.passes.base import Context

        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        return Context(self.task, 0, THREADS, cpu_features(), workdir=work, teacher=self.model)


def _within(artifact: Artifact, folder: str) -> Artifact:
    return replace(artifact, path=f"{folder}/{artifact.path}")

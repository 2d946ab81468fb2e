"""The parent's end of a worker: start it, ask it, end it, and say in one line why it died."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from compressor.errors import MeasurementError
from compressor.results import Plan, RuntimeInfo

# Libraries start their thread pools when they are imported, so the count is fixed before the worker starts.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def cores_for(threads: int) -> list[int]:
    """The cores that every worker is pinned to: as many as threads, the last ones, as interrupts favour the first.

    Args:
        threads: Threads of the runtime.

    Returns:
        Core numbers; empty where the system does not pin.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))[-threads:]


@dataclass(frozen=True)
class ArmFile:
    """What a worker needs to know: the artifact, its runtime (``None``: by its format) and the inputs' ``.npz``."""

    arm: str
    path: Path
    runtime: str | None
    inputs: Path


class WorkerProcess:
    """A running worker.

    Args:
        file: What to load.
        plan: Batch size and threads.

    Raises:
        MeasurementError: The worker could not load the artifact or ended while loading.
    """

    def __init__(self, file: ArmFile, plan: Plan) -> None:
        self.arm = file.arm
        self._owed = 0
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        environment = {**os.environ, **{name: str(plan.threads) for name in _THREAD_VARIABLES}}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "compressor.benchmark.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
            # Ctrl-C is for the parent to handle: it keeps the finished blocks.
            start_new_session=True,
        )
        config = {
            "path": str(file.path),
            "runtime": file.runtime,
            "inputs": str(file.inputs),
            "batch": plan.batch,
            "threads": plan.threads,
            "cores": cores_for(plan.threads),
        }
        try:
            started = self._exchange(config)
        except BaseException:
            self.close()
            raise
        self.load_s: float = started["load_s"]
        self.runtime = RuntimeInfo(**started["runtime"])

    @property
    def pid(self) -> int:
        """Process number, for meters whose scope is a process."""
        return self._process.pid

    def ask(self, do: str, **arguments: int) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            MeasurementError: The worker reported an error or died.
        """
        return self._exchange({"do": do, **arguments})

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        pipes = self._process.stdin, self._process.stdout
        if pipes[0] is None or pipes[1] is None:  # only for the type checker: both were asked for
            raise MeasurementError("has no pipes", where=self.arm)
        try:
            # After Ctrl-C in mid-window the worker still finishes that window and answers: that answer is not ours.
            while self._owed:
                pipes[1].readline()
                self._owed -= 1
            pipes[0].write(json.dumps(message) + "\n")
            pipes[0].flush()
            self._owed += 1
            line = pipes[1].readline()
            self._owed -= 1
        except BrokenPipeError:
            line = ""
        if not line:
            raise MeasurementError(self._obituary(), where=self.arm)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MeasurementError(answer["error"], where=self.arm)
        return answer

    def _obituary(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        hint = " (out of memory?)" if code == -9 else ""
        return f"the worker {how}{hint}" + (f": {lines[-1]}" if lines else "")

    def close(self) -> None:
        """End the worker; it is killed if it does not end by itself within 5 s."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

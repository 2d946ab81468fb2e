"""The parent's end of a worker: start it, ask it, end it, and say in one line why it died."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

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
    """What a worker needs to know.

    Attributes:
        arm: Name of the arm, for messages.
        path: The artifact.
        runtime: What is to run it; ``None`` for the usual runtime of its format.
        inputs: The inputs' ``.npz``; what ``torch.compile`` makes is kept beside it, for the workers of later blocks.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
    """

    arm: str
    path: Path
    runtime: str | None
    inputs: Path
    device: str = "cpu"


class WorkerProcess:
    """A running worker; it loads in the background until :meth:`wait_until_loaded`.

    Args:
        file: What to load.
        plan: Batch size and threads.

    Raises:
        MeasurementError: The worker ended at once.
    """

    def __init__(self, file: ArmFile, plan: Plan) -> None:
        self.arm = file.arm
        self._owed = 0
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        environment = {**os.environ, **{name: str(plan.threads) for name in _THREAD_VARIABLES}}
        # Empty when the benchmark begins, so that the first block shows what compiling takes.
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(file.inputs.parent / "inductor")
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
        # Both were asked for just above; Popen's type cannot say so.
        self._to = cast(IO[str], self._process.stdin)
        self._from = cast(IO[str], self._process.stdout)
        config = {
            "path": str(file.path),
            "runtime": file.runtime,
            "inputs": str(file.inputs),
            "device": file.device,
            "batch": plan.batch,
            "threads": plan.threads,
            "cores": cores_for(plan.threads),
            "workload": plan.workload and asdict(plan.workload),
        }
        try:
            self._send(config)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Process number, for meters whose scope is a process."""
        return self._process.pid

    def wait_until_loaded(self) -> None:
        """Wait for the worker to say that it has loaded its artifact.

        Raises:
            MeasurementError: It could not load it, or ended while loading.
        """
        started = self._receive()
        self.load_s: float = started["load_s"]
        self.runtime = RuntimeInfo(**started["runtime"])

    def ask(self, do: str, **arguments: int | str) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            MeasurementError: The worker reported an error or died.
        """
        # After Ctrl-C in mid-window the worker still finishes that window and answers: that answer is not ours.
        while self._owed:
            self._receive()
        self._send({"do": do, **arguments})
        return self._receive()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._to.write(json.dumps(message) + "\n")
            self._to.flush()
        except BrokenPipeError:
            raise MeasurementError(self._obituary(), where=self.arm) from None
        self._owed += 1

    def _receive(self) -> dict[str, Any]:
        line = self._from.readline()
        if not line:
            raise MeasurementError(self._obituary(), where=self.arm)
        self._owed -= 1
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
        for pipe in (self._to, self._from):
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

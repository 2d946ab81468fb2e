"""The parent's end of a worker: start it, ask it, end it, and say in one line why it died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from compressor.errors import MeasurementError
from compressor.results import Plan, RuntimeInfo

# Libraries start their thread pools when they are imported, so the count is fixed before the worker starts.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

PATIENCE_S = 1800.0
"""A worker that has given no answer for so long hangs: compiling a large model in its first call takes minutes."""
END_S = 5.0
"""A worker whose pipe was closed is given so long to end by itself."""
_LATE = 10
"""A window that lasts so many times what it should hangs too, where that is longer."""


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


def config_of(file: ArmFile, plan: Plan) -> dict[str, Any]:
    """What a worker is told first."""
    return {
        "path": str(file.path),
        "runtime": file.runtime,
        "inputs": str(file.inputs),
        "device": file.device,
        "batch": plan.batch,
        "threads": plan.threads,
        "cores": cores_for(plan.threads),
        "workload": plan.workload and asdict(plan.workload),
    }


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
        self._hung_s = 0.0
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        environment = {**os.environ, **{name: str(plan.threads) for name in _THREAD_VARIABLES}}
        # Empty when the benchmark begins, so that the first block shows what compiling takes.
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(file.inputs.parent / "inductor")
        environment["COMPRESSOR_TENSORRT_CACHE"] = str(file.inputs.parent / "tensorrt")
        self._process = subprocess.Popen(
            # -P: a file of the user's that is called random.py or onnx.py must not stand in for the library.
            [sys.executable, "-P", "-m", "compressor.benchmark.worker"],
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
        try:
            self._send(config_of(file, plan))
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

    def ask(self, do: str, expected_s: float = 0.0, **arguments: int | str) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Args:
            do: The command.
            expected_s: How long it should take.
            **arguments: The command's.

        Raises:
            MeasurementError: The worker reported an error, died or hangs.
        """
        self._send({"do": do, **arguments})
        return self._receive(expected_s)

    def require_alive(self) -> None:
        """Raise :class:`MeasurementError`, with the cause, if the worker has ended."""
        if self._process.poll() is not None:
            raise self._obituary()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._to.write(json.dumps(message) + "\n")
            self._to.flush()
        except BrokenPipeError:
            raise self._obituary() from None

    def _receive(self, expected_s: float = 0.0) -> dict[str, Any]:
        watchdog = threading.Timer(limit_s := max(PATIENCE_S, _LATE * expected_s), self._give_up, (limit_s,))
        watchdog.daemon = True
        watchdog.start()
        try:
            line = self._from.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise self._obituary()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MeasurementError(answer["error"], where=self.arm)
        return answer

    def _give_up(self, limit_s: float) -> None:
        """End a worker that hangs; whoever waits for its answer finds its pipe closed."""
        self._hung_s = limit_s
        self.kill()

    def kill(self) -> None:
        """End the worker and what it started at once, whatever it does."""
        if self._process.poll() is not None:  # its number may be another's by now
            return
        if sys.platform == "win32":
            self._process.kill()
        else:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _obituary(self) -> MeasurementError:
        try:
            code = self._process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:  # it closed its pipe and hangs on its way out
            self._give_up(END_S)
            code = self._process.wait()
        if self._hung_s:
            return MeasurementError(
                f"the worker gave no answer within {self._hung_s:g} s and was ended", where=self.arm
            )
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        hint = " (out of memory?)" if code == -9 else ""
        said = _last_words(lines)[:300]
        mend = "use a smaller --batch" if "out of memory" in said else None
        return MeasurementError(f"the worker {how}{hint}" + (f": {said}" if said else ""), where=self.arm, mend=mend)

    def close(self) -> None:
        """End the worker; it is killed if it does not end by itself."""
        for pipe in (self._to, self._from):
            with suppress(BrokenPipeError):
                pipe.close()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=END_S)
        finally:  # by Ctrl-C as well
            self.kill()
            self._process.wait()
            self._errors.close()


def _last_words(lines: Sequence[str]) -> str:
    """What a process that died said: the error at the end of its traceback, behind which libraries print advice."""
    tracebacks = [index for index, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    behind = lines[tracebacks[-1] + 1 :] if tracebacks else []
    return next((line for line in behind if line and not line[0].isspace()), lines[-1] if lines else "")

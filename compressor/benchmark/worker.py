"""One arm in a process of its own: a fresh interpreter that loads one artifact and waits to be told.

Talks JSON lines: a configuration, then commands on standard input; one answer each on standard output. While it waits
it blocks on the pipe, so an idle arm burns no CPU; when the pipe closes, because the parent is done or dead, it ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from compressor.errors import CompressorError
from compressor.model.base import Arrays
from compressor.results import Workload
from compressor.runtimes.decoding import WorkloadRun, open_language_model
from compressor.runtimes.registry import open_session

MAX_SAMPLES = 100_000
"""Call times kept in each block for the percentiles; beyond that the newest overwrite the oldest."""


def batches_of(inputs: Arrays, batch: int) -> list[Arrays]:
    """Cut examples into full batches, once, so that the timed loop copies nothing.

    Args:
        inputs: One array per model input, ``(N, …)``; repeated from the start if N < batch.
        batch: Examples per batch.

    Returns:
        At least one list entry, each of exactly ``batch`` examples.
    """
    count = len(inputs[0])
    if count < batch:
        inputs = tuple(np.resize(x, (batch, *x.shape[1:])) for x in inputs)
        count = batch
    return [
        tuple(np.ascontiguousarray(x[start : start + batch]) for x in inputs)
        for start in range(0, count - batch + 1, batch)
    ]


def peak_memory_bytes() -> int | None:
    """Largest resident size of this process so far; ``None`` where the system does not tell."""
    try:
        # Not getrusage: Linux lets a child begin with the peak of the parent that forked it.
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Worker:
    """The loaded artifact, its batches, and the times of its calls."""

    def __init__(self, config: dict[str, Any]) -> None:
        started = time.perf_counter()
        open_file = open_language_model if config.get("workload") else open_session
        self.session = open_file(
            Path(config["path"]), config["runtime"], threads=config["threads"], device=config["device"]
        )
        with np.load(config["inputs"]) as arrays:
            inputs = tuple(arrays[spec] for spec in arrays.files)
        self.batches: list[Any] = batches_of(inputs, config["batch"])
        self.call: Callable[[Any], object] = self.session.run
        if config.get("workload"):
            workload = WorkloadRun(self.session, Workload(**config["workload"]))
            self.batches, self.call = workload.prepare(self.batches), workload.run
        self.times_ns = np.zeros(MAX_SAMPLES, np.int64)
        self.calls = 0
        self.next = 0
        # The first call is part of loading: in it torch.compile compiles and GPUs load their kernels.
        self.call(self.batches[0])
        self.load_s = time.perf_counter() - started

    def run(self, calls: int) -> dict[str, float]:
        """Run so many calls, going round the batches; every call returns computed results, not queued ones."""
        run, batches, times, clock = self.call, self.batches, self.times_ns, time.perf_counter_ns
        count, at, sample = len(self.batches), self.next, self.calls
        cpu = time.process_time_ns()
        started = previous = clock()
        for _ in range(calls):
            run(batches[at])
            at = at + 1 if at + 1 < count else 0
            now = clock()
            times[sample % MAX_SAMPLES] = now - previous
            previous, sample = now, sample + 1
        elapsed, cpu = previous - started, time.process_time_ns() - cpu
        self.next, self.calls = at, sample
        return {"elapsed_s": elapsed / 1e9, "cpu_s": cpu / 1e9}

    def forget(self) -> dict[str, float]:
        """Drop the call times so far: they were warm-up."""
        self.calls = 0
        return {}

    def summary(self, times: str) -> dict[str, Any]:
        """Write the call times, in ns, to a file; answer with their number and the peak memory."""
        np.save(times, self.times_ns[: min(self.calls, MAX_SAMPLES)])
        return {"calls": self.calls, "peak_memory_bytes": peak_memory_bytes()}


def serve() -> None:
    """Read the configuration, load, answer commands until the pipe closes."""
    # A library that prints must not talk into the protocol: keep the pipe for us, point file descriptor 1 at stderr.
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        pipe.write(json.dumps(message) + "\n")

    config = json.loads(sys.stdin.readline())
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, config["cores"])
    try:
        worker = Worker(config)
        info = worker.session.info
        answer(
            {
                "load_s": worker.load_s,
                "runtime": {
                    "name": info.name,
                    "version": info.version,
                    "device": info.device,
                    "options": dict(info.options),
                },
            }
        )
        commands: dict[str, Any] = {"run": worker.run, "forget": worker.forget, "summary": worker.summary}
        for line in sys.stdin:
            command = json.loads(line)
            answer(commands[command.pop("do")](**command))
    except CompressorError as error:
        answer({"error": str(error)})
    except MemoryError:
        answer({"error": "ran out of memory; use a smaller --batch"})


if __name__ == "__main__":
    serve()

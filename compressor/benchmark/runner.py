"""The protocol: a worker per arm, warm-up until steady, interleaved blocks, idle windows, discard and rerun.

Every block has fresh workers. Where a process happens to find its memory moves its speed for as long as it lives, by
more than its own windows scatter by; blocks of the same processes would share that luck, and the interval would leave
it out (``python -m benchmarks.process_scatter`` shows both). Repeating at the level that varies is the advice of
Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013.
"""

from __future__ import annotations

import math
import os
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from compressor.benchmark.gauges import (
    Clock,
    Gauges,
    Progress,
    counted_between,
    load_beside,
    watts_between,
    why_unsound,
)
from compressor.benchmark.inputs import write_inputs
from compressor.benchmark.plan import LOAD_S, expected_s, units_per_call
from compressor.benchmark.process import ArmFile, WorkerProcess, cores_for
from compressor.environment import LoadMonitor, describe_environment, temperature_c
from compressor.errors import MeasurementError, MeterError
from compressor.meters.base import PERIODS_PER_WINDOW, Meter
from compressor.model.base import Arrays
from compressor.results import (
    Artifact,
    Environment,
    KernelCounts,
    Latency,
    Measurement,
    Plan,
    Reading,
    Rejected,
    Score,
    Trial,
)
from compressor.stats import settled

FOREIGN_LOAD_LIMIT = 0.15
"""Share of the cores, the machine's and the arms' own, that others may keep busy before a block is discarded."""
WARMUP_WINDOW_S = 0.25
INTERRUPTED = "interrupted"
INPUTS = "inputs.npz"


@dataclass(frozen=True)
class Arm:
    """One thing to measure.

    Attributes:
        name: Name of the arm, unique within the run.
        role: ``baseline``, ``candidate``, ``stage`` or ``control``.
        artifact: What the file is.
        path: Where it is.
        runtime: What is to run it; ``None`` for the usual runtime of its format.
        kernels: What the runtime really runs, if known.
        score: The artifact's score, if there is a task.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
    """

    name: str
    role: Literal["baseline", "candidate", "stage", "control"]
    artifact: Artifact
    path: Path
    runtime: str | None = None
    kernels: KernelCounts | None = None
    score: Score | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark gave.

    Attributes:
        measurements: One per arm, in the order of the arms; with the finished blocks only.
        warnings: What a reader must know: not steady, blocks missing, a busy machine.
        interrupted: Whether Ctrl-C ended it early.
    """

    measurements: tuple[Measurement, ...]
    warnings: tuple[str, ...]
    interrupted: bool


@dataclass(frozen=True)
class _Window:
    inferences: int
    elapsed_s: float
    cpu_s: float
    energy_j: Mapping[str, float]
    foreign_load: float
    utilisation: Mapping[str, float]


class _DiscardBlock(Exception):  # noqa: N818 - not an error: the block is run again
    def __init__(self, arm: str, cause: str) -> None:
        self.arm, self.cause = arm, cause
        super().__init__(cause)


class _RunningArm:
    """An arm, its worker of the moment, the meters that see it, and what was found so far."""

    def __init__(self, arm: Arm, plan: Plan, folder: Path) -> None:
        self.arm, self.plan, self.folder = arm, plan, folder
        self.steady = True
        self.load_s: list[float] = []
        self.peaks: list[int] = []
        self.timed = 0
        self.trials: list[Trial] = []
        self.rejected: list[Rejected] = []
        self.idle_w: dict[str, list[float]] = {}

    def start(self) -> None:
        """Start a fresh worker; it loads while others start."""
        file = ArmFile(self.arm.name, self.arm.path, self.arm.runtime, self.folder / INPUTS, self.arm.device)
        self.worker = WorkerProcess(file, self.plan)

    def watch(self, meters: Sequence[Meter]) -> None:
        """Wait until the worker has loaded and take the meters that see it."""
        self.worker.wait_until_loaded()
        self.runtime = self.worker.runtime
        self.load_s.append(self.worker.load_s)
        self.meters = meters

    def warm_up(self, limit_s: float, window_s: float) -> None:
        """Run until two successive windows agree within 2 %, or the limit; that tells the calls per window."""
        started, previous, calls = time.perf_counter(), 0.0, 1
        while True:
            elapsed = self.worker.ask("run", calls=calls)["elapsed_s"]
            per_call = elapsed / calls
            long_enough = elapsed >= WARMUP_WINDOW_S / 2
            steady = long_enough and settled(previous, per_call)
            if steady or time.perf_counter() - started > limit_s:
                break
            previous = per_call if long_enough else 0.0
            calls = max(1, math.ceil(WARMUP_WINDOW_S / per_call))
        self.steady = self.steady and steady
        # Anew in each block: one that began on a busy machine would leave later windows too short for the meters.
        self.calls = max(1, math.ceil(window_s / per_call))
        self.worker.ask("forget")

    def read(self) -> list[Reading]:
        return [meter.read() for meter in self.meters]

    def window(self, monitor: LoadMonitor, pids: Sequence[int]) -> _Window:
        """Run one window between two readings of every meter."""
        monitor.start(pids)
        try:
            before = self.read()
            answer = self.worker.ask("run", self.plan.window_s, calls=self.calls)
            energy, busy = counted_between(self.meters, before, self.read())
        except MeterError as error:
            self.worker.require_alive()  # the dead have no CPU time, which is not the meter's fault
            raise _DiscardBlock(self.arm.name, str(error)) from error
        others = monitor.stop()
        causes = (others.why_unsound(FOREIGN_LOAD_LIMIT), *(why_unsound(meter.info, energy) for meter in self.meters))
        if cause := next(filter(None, causes), ""):
            raise _DiscardBlock(self.arm.name, cause)
        inferences = self.calls * units_per_call(self.plan)
        return _Window(inferences, answer["elapsed_s"], answer["cpu_s"], energy, others.load, busy)

    def add(self, block: int, windows: Sequence[_Window]) -> None:
        """Add the windows of a finished block up to one trial, and take the times of its calls."""
        domains = set.intersection(*(set(w.energy_j) for w in windows))
        gpus = set.intersection(*(set(w.utilisation) for w in windows))
        elapsed_s = sum(w.elapsed_s for w in windows)
        self.trials.append(
            Trial(
                block=block,
                inferences=sum(w.inferences for w in windows),
                elapsed_s=elapsed_s,
                cpu_s=sum(w.cpu_s for w in windows),
                energy_j={domain: sum(w.energy_j[domain] for w in windows) for domain in sorted(domains)},
                foreign_load=max(w.foreign_load for w in windows),
                temperature_c=temperature_c(),
                utilisation={k: sum(w.utilisation[k] * w.elapsed_s for w in windows) / elapsed_s for k in sorted(gpus)},
            )
        )
        summary = self.worker.ask("summary", times=str(self._times(block)))
        self.timed += summary["calls"]
        if summary["peak_memory_bytes"] is not None:
            self.peaks.append(summary["peak_memory_bytes"])

    def _times(self, block: int) -> Path:
        return self.folder / f"times-{id(self)}-{block}.npy"

    def _latency(self) -> Latency | None:
        if not self.trials:
            return None
        times = np.concatenate([np.load(self._times(trial.block)) for trial in self.trials])
        percentiles = tuple((np.percentile(times, range(101)) / 1e9).tolist())
        return Latency(self.timed, percentiles[50], percentiles[90], percentiles[99], percentiles)

    def measurement(self, environment: Environment) -> Measurement:
        """Everything that was found of this arm."""
        return Measurement(
            arm=self.arm.name,
            role=self.arm.role,
            artifact=self.arm.artifact,
            runtime=self.runtime,
            kernels=self.arm.kernels,
            plan=self.plan,
            environment=environment,
            meters=tuple(meter.info for meter in self.meters),
            trials=tuple(self.trials),
            rejected=tuple(self.rejected),
            idle_power_w={key: sum(watts) / len(watts) for key, watts in sorted(self.idle_w.items())},
            latency=self._latency(),
            peak_memory_bytes=max(self.peaks, default=None),
            # Of the first block: later ones find what torch.compile made in it.
            load_s=self.load_s[0],
            steady=self.steady,
            score=self.arm.score,
        )


def run_benchmark(
    arms: Sequence[Arm],
    inputs: Arrays,
    plan: Plan,
    *,
    meters: Sequence[str] = (),
    watts_per_core: float | None = None,
    on_progress: Progress | None = None,
) -> BenchmarkResult:
    """Measure some artifacts side by side.

    Args:
        arms: What to measure; their names are unique.
        inputs: Real inputs, one array per model input, ``(N, …)`` each; every arm runs the same ones.
        plan: Batch size, threads, blocks, window lengths.
        meters: Meters by name; empty for every measuring one that can be read here, else ``cpu-time``.
        watts_per_core: For estimates by ``cpu-time``; ``None`` to look the CPU up.
        on_progress: Told how far it is.

    Returns:
        One measurement per arm. With Ctrl-C during the blocks, or a worker that fails in a later one: those of the
        finished blocks.

    Raises:
        MeterError: A named meter cannot be read here.
        MeasurementError: In the first block a worker cannot load its artifact, dies or hangs.
        KeyboardInterrupt: Ctrl-C before the first block was begun.
    """
    environment = describe_environment()
    clock = Clock(expected_s(plan, len(arms)), on_progress)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compressor-")))
        write_inputs(inputs, plan.batch, folder / INPUTS)
        running = [_RunningArm(arm, plan, folder) for arm in arms]
        gauges = Gauges(meters, watts_per_core)
        stack.callback(gauges.close)
        return _run(running, gauges, plan, environment, clock)


@contextmanager
def _fresh_workers(running: Sequence[_RunningArm], gauges: Gauges) -> Iterator[list[int]]:
    """Start a worker for every arm, loading side by side, and end them afterwards; yields their and our pids."""
    with ExitStack() as stack:
        started: list[WorkerProcess] = []
        try:
            for one in running:
                one.start()
                started.append(one.worker)
                stack.callback(one.worker.close)
            for one in running:
                one.watch(gauges.of(one.worker, stack))
            yield [os.getpid(), *(worker.pid for worker in started)]
        except BaseException:  # Ctrl-C, or one that died: nobody waits until the others have loaded
            for worker in started:
                worker.kill()
            raise


def _run(
    running: Sequence[_RunningArm], gauges: Gauges, plan: Plan, environment: Environment, clock: Clock
) -> BenchmarkResult:
    """Run the blocks, each with fresh workers, and collect."""
    monitor, order = LoadMonitor(cores_for(plan.threads)), random.Random(plan.seed)
    idle_at = {0, plan.blocks // 2, plan.blocks - 1}
    finished = discarded = 0
    ended = disturbed = ""
    try:
        while finished < plan.blocks and discarded <= plan.blocks:
            before = clock.done_s
            clock.now(f"block {finished + 1} of {plan.blocks}: loading")
            with _fresh_workers(running, gauges) as pids:
                clock.advance(LOAD_S * len(running))
                window_s = max(plan.window_s, PERIODS_PER_WINDOW * gauges.slowest_s)
                if window_s > running[0].plan.window_s:
                    stretched = replace(plan, window_s=window_s, idle_s=max(plan.idle_s, window_s))
                    for one in running:
                        one.plan = stretched
                    clock.total_s = expected_s(stretched, len(running))
                limit_s = plan.warmup_limit_s if not finished else plan.warmup_limit_s / 2
                for one in running:
                    clock.now(f"block {finished + 1} of {plan.blocks}: warming up")
                    one.warm_up(limit_s, window_s)
                    clock.advance(limit_s / 4)
                if finished in idle_at:
                    disturbed = _idle(running, monitor, pids, clock) or disturbed
                try:
                    _block(running, finished, order, monitor, pids, clock)
                except _DiscardBlock as cause:
                    discarded += 1
                    clock.done_s = before
                    for one in running:
                        if one.arm.name == cause.arm:
                            one.rejected.append(Rejected(finished, cause.arm, cause.cause))
                    continue
            finished += 1
    except KeyboardInterrupt:
        if not finished:
            raise
        ended = INTERRUPTED
    except (MeasurementError, MeterError) as error:
        # A worker died or hangs: the finished blocks are none the worse for it.
        if not finished:
            raise
        ended = str(error)

    warnings: list[str] = []
    if (window_s := running[0].plan.window_s) > plan.window_s:
        warnings.append(
            f"Windows lasted {window_s:.3g} s instead of {plan.window_s:g} s: {gauges.slowest} moves every "
            f"{gauges.slowest_s:.3g} s, and a window needs {PERIODS_PER_WINDOW} of its periods."
        )
    if finished < plan.blocks:
        why = ended or f"{discarded} were discarded"
        warnings.append(f"Only {finished} of {plan.blocks} blocks were finished ({why}).")
    if discarded and ended != INTERRUPTED:
        causes = sorted({r.cause for one in running for r in one.rejected})
        blocks = "1 block was" if discarded == 1 else f"{discarded} blocks were"
        warnings.append(f"{blocks} discarded and run again: {causes[0]}.")
    restless = [one.arm.name for one in running if not one.steady]
    warnings += [f"{arm} was not steady when its warm-up ended, in one block at least." for arm in restless]
    if disturbed and finished and not any(one.idle_w for one in running):
        warnings.append(f"No idle window was sound, so energy above idle is not known: {disturbed}.")
    clock.advance(clock.total_s)
    clock.now("measured")
    measurements = tuple(one.measurement(environment) for one in running)
    warnings += [*load_beside(measurements), *gauges.gap_notes()]
    return BenchmarkResult(measurements, tuple(warnings), ended == INTERRUPTED)


def _block(
    running: Sequence[_RunningArm],
    number: int,
    order: random.Random,
    monitor: LoadMonitor,
    pids: Sequence[int],
    clock: Clock,
) -> None:
    """One block: every arm there and back; nothing is kept unless the whole block is sound."""
    there = order.sample(list(running), len(running))
    windows: dict[str, list[_Window]] = {one.arm.name: [] for one in running}
    for one in [*there, *reversed(there)]:
        clock.now(f"block {number + 1} of {one.plan.blocks}: {one.arm.name}")
        windows[one.arm.name].append(one.window(monitor, pids))
        clock.advance(one.plan.window_s)
    for one in running:
        one.add(number, windows[one.arm.name])


def _idle(running: Sequence[_RunningArm], monitor: LoadMonitor, pids: Sequence[int], clock: Clock) -> str:
    """An idle window of all arms at once; if it is not sound, the answer is why, and it leaves no figure."""
    clock.now("idle")
    seconds = running[0].plan.idle_s
    monitor.start(pids)
    try:
        before = [one.read() for one in running]
        time.sleep(seconds)
        found = [watts_between(one.meters, start, one.read()) for one, start in zip(running, before, strict=True)]
    except MeterError as error:
        return str(error)
    finally:
        clock.advance(seconds)
    if cause := monitor.stop().why_unsound(FOREIGN_LOAD_LIMIT):
        return cause
    for one, watts in zip(running, found, strict=True):
        for key, power in watts.items():
            one.idle_w.setdefault(key, []).append(power)
    return ""

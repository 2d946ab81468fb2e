"""The protocol: a worker per arm, warm-up until steady, interleaved blocks, idle windows, discard and rerun.

The order of the arms within a block is random and is then walked back (A B C, C B A), so that a drift that is linear
over the block, such as a warming chip, falls on every arm alike.
"""

from __future__ import annotations

import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from compressor.benchmark.plan import expected_s
from compressor.benchmark.process import ArmFile, WorkerProcess
from compressor.environment import LoadMonitor, describe_environment, temperature_c
from compressor.errors import MeterError
from compressor.meters.base import Meter, MeterOptions, energy_between
from compressor.meters.metering import process_cpu_clock
from compressor.meters.registry import open_ladder, open_meter
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
"""Share of the cores that other processes may keep busy during a block before it is discarded."""
PERIODS_PER_WINDOW = 100
"""A window lasts at least so many update periods of the slowest counter, so that its edges blur it by 1 % at most."""
WARMUP_WINDOW_S = 0.25
POOL_BYTES = 256 * 2**20
POOL_EXAMPLES = 512

Progress = Callable[[float, float, str], None]
"""Called with the seconds done, the seconds expected and what is going on."""


@dataclass(frozen=True)
class Arm:
    """One thing to measure.

    Attributes:
        name: Name of the arm, unique within the run.
        role: ``baseline``, ``candidate`` or ``control``.
        artifact: What the file is.
        path: Where it is.
        runtime: What is to run it; ``None`` for the usual runtime of its format.
        kernels: What the runtime really runs, if known.
        score: The artifact's score, if there is a task.
    """

    name: str
    role: Literal["baseline", "candidate", "control"]
    artifact: Artifact
    path: Path
    runtime: str | None = None
    kernels: KernelCounts | None = None
    score: Score | None = None


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


class _DiscardBlock(Exception):  # noqa: N818 - not an error: the block is run again
    def __init__(self, arm: str, cause: str) -> None:
        self.arm, self.cause = arm, cause
        super().__init__(cause)


class _RunningArm:
    """A worker, the meters that see it, and what was found so far."""

    def __init__(self, arm: Arm, worker: WorkerProcess, meters: Sequence[Meter], batch: int) -> None:
        self.arm, self.worker, self.meters, self.batch = arm, worker, meters, batch
        self.calls = 1
        self.steady = False
        self.trials: list[Trial] = []
        self.rejected: list[Rejected] = []
        self.idle_w: dict[str, list[float]] = {}

    def warm_up(self, limit_s: float, window_s: float) -> None:
        """Run until two successive windows agree within 2 %, or the limit; then fix the calls per window."""
        started, previous, calls = time.perf_counter(), 0.0, 1
        while True:
            elapsed = self.worker.ask("run", calls=calls)["elapsed_s"]
            per_call = elapsed / calls
            long_enough = elapsed >= WARMUP_WINDOW_S / 2
            self.steady = long_enough and settled(previous, per_call)
            if self.steady or time.perf_counter() - started > limit_s:
                break
            previous = per_call if long_enough else 0.0
            calls = max(1, math.ceil(WARMUP_WINDOW_S / per_call))
        self.calls = max(1, math.ceil(window_s / per_call))
        self.worker.ask("forget")

    def read(self) -> list[Reading]:
        return [meter.read() for meter in self.meters]

    def joules(self, before: Sequence[Reading], after: Sequence[Reading]) -> dict[str, float]:
        energy: dict[str, float] = {}
        for meter, start, end in zip(self.meters, before, after, strict=True):
            energy.update(energy_between(start, end, meter.info.name))
        return energy

    def window(self, monitor: LoadMonitor, pids: Sequence[int]) -> _Window:
        """Run one window between two readings of every meter."""
        monitor.start(pids)
        try:
            before = self.read()
            answer = self.worker.ask("run", calls=self.calls)
            energy = self.joules(before, self.read())
        except MeterError as error:
            raise _DiscardBlock(self.arm.name, str(error)) from error
        foreign = monitor.stop()
        for meter in self.meters:
            for domain in meter.info.total or meter.info.domains:
                if energy.get(f"{meter.info.name}/{domain}") == 0:
                    raise _DiscardBlock(self.arm.name, f"{meter.info.name}: {domain} stood still for a whole window")
        if foreign > FOREIGN_LOAD_LIMIT:
            raise _DiscardBlock(self.arm.name, f"other processes kept {foreign:.0%} of the cores busy")
        return _Window(self.calls * self.batch, answer["elapsed_s"], answer["cpu_s"], energy, foreign)

    def add(self, block: int, windows: Sequence[_Window]) -> None:
        """Add the windows of a finished block up to one trial."""
        domains = set.intersection(*(set(w.energy_j) for w in windows))
        self.trials.append(
            Trial(
                block=block,
                inferences=sum(w.inferences for w in windows),
                elapsed_s=sum(w.elapsed_s for w in windows),
                cpu_s=sum(w.cpu_s for w in windows),
                energy_j={domain: sum(w.energy_j[domain] for w in windows) for domain in sorted(domains)},
                foreign_load=max(w.foreign_load for w in windows),
                temperature_c=temperature_c(),
            )
        )

    def measurement(self, plan: Plan, environment: Environment) -> Measurement:
        """Everything that was found of this arm."""
        summary = self.worker.ask("summary")
        percentiles = summary["percentiles_s"]
        return Measurement(
            arm=self.arm.name,
            role=self.arm.role,
            artifact=self.arm.artifact,
            runtime=self.worker.runtime,
            kernels=self.arm.kernels,
            plan=plan,
            environment=environment,
            meters=tuple(meter.info for meter in self.meters),
            trials=tuple(self.trials),
            rejected=tuple(self.rejected),
            idle_power_w={key: sum(watts) / len(watts) for key, watts in sorted(self.idle_w.items())},
            latency=percentiles
            and Latency(summary["calls"], percentiles[50], percentiles[90], percentiles[99], tuple(percentiles)),
            peak_memory_bytes=summary["peak_memory_bytes"],
            load_s=self.worker.load_s,
            steady=self.steady,
            score=self.arm.score,
        )


class _Clock:
    """Seconds done and expected, told to whoever shows a progress bar."""

    def __init__(self, total_s: float, tell: Progress | None) -> None:
        self.total_s, self.done_s, self.tell = total_s, 0.0, tell

    def now(self, text: str) -> None:
        if self.tell:
            self.tell(self.done_s, self.total_s, text)

    def advance(self, seconds: float) -> None:
        self.done_s += seconds


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
        One measurement per arm. With Ctrl-C during the blocks: those of the finished blocks.

    Raises:
        MeterError: A named meter cannot be read here.
        MeasurementError: A worker cannot load its artifact, or died.
        KeyboardInterrupt: Ctrl-C before the first block was begun.
    """
    environment = describe_environment()
    clock = _Clock(expected_s(plan, len(arms)), on_progress)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compressor-")))
        pool = _pool(inputs, plan.batch)
        np.savez(folder / "inputs.npz", allow_pickle=False, **{f"input_{i:03}": x for i, x in enumerate(pool)})
        running: list[_RunningArm] = []
        shared: dict[str, Meter] = {}
        for arm in arms:
            clock.now(f"loading {arm.name}")
            file = ArmFile(arm.name, arm.path, arm.runtime, folder / "inputs.npz")
            worker = WorkerProcess(file, plan)
            stack.callback(worker.close)
            options = MeterOptions(cpu_clock=process_cpu_clock(worker.pid), watts_per_core=watts_per_core)
            seen_by = _meters_for(meters, options, shared, stack)
            running.append(_RunningArm(arm, worker, seen_by, plan.batch))
        return _run(running, plan, environment, clock)


def _pool(inputs: Arrays, batch: int) -> Arrays:
    """The examples that every arm goes round: enough to be real, few enough to stay in memory."""
    bytes_each = max(1, sum(x[:1].nbytes for x in inputs))
    count = max(batch, min(POOL_EXAMPLES, POOL_BYTES // bytes_each))
    return tuple(x[:count] for x in inputs)


def _meters_for(
    names: Sequence[str], options: MeterOptions, shared: dict[str, Meter], stack: ExitStack
) -> tuple[Meter, ...]:
    """Open the meters of one arm; those that see more than a process are opened once and shared by all arms."""
    if shared and all(name in shared for name in names or shared):
        return tuple(shared.values())
    opened = [open_meter(name, options) for name in names] if names else list(open_ladder(options))
    result = []
    for key, meter in zip(names or [m.info.name for m in opened], opened, strict=True):
        if meter.info.scope != "process" and key in shared:
            meter.close()
            result.append(shared[key])
            continue
        stack.callback(meter.close)
        result.append(meter)
        if meter.info.scope != "process":
            shared[key] = meter
    return tuple(result)


def _run(running: Sequence[_RunningArm], plan: Plan, environment: Environment, clock: _Clock) -> BenchmarkResult:
    """Warm up, run the blocks, collect."""
    pids = [os.getpid(), *(one.worker.pid for one in running)]
    monitor, order = LoadMonitor(), random.Random(plan.seed)
    slowest = max((m.info.update_period_s for one in running for m in one.meters), default=0.0)
    window_s = max(plan.window_s, PERIODS_PER_WINDOW * slowest)
    for one in running:
        clock.now(f"warming up {one.arm.name}")
        one.warm_up(plan.warmup_limit_s, window_s)
        clock.advance(plan.warmup_limit_s / 2)

    warnings: list[str] = []
    finished = discarded = 0
    interrupted = False
    try:
        _idle(running, plan.idle_s, clock)
        while finished < plan.blocks and discarded <= plan.blocks:
            clock.now(f"block {finished + 1} of {plan.blocks}")
            before = clock.done_s
            try:
                _block(running, finished, order, monitor, pids, clock, plan.window_s)
            except _DiscardBlock as cause:
                discarded += 1
                clock.done_s = before
                for one in running:
                    if one.arm.name == cause.arm:
                        one.rejected.append(Rejected(finished, cause.arm, cause.cause))
                continue
            finished += 1
            if finished == (plan.blocks + 1) // 2:
                _idle(running, plan.idle_s, clock)
        _idle(running, plan.idle_s, clock)
    except KeyboardInterrupt:
        interrupted = True
    if finished < plan.blocks:
        why = "interrupted" if interrupted else f"{discarded} were discarded"
        warnings.append(f"Only {finished} of {plan.blocks} blocks were finished ({why}).")
    if discarded and not interrupted:
        causes = sorted({r.cause for one in running for r in one.rejected})
        warnings.append(f"{discarded} blocks were discarded and run again: {causes[0]}.")
    restless = [one.arm.name for one in running if not one.steady]
    warnings += [f"{arm} was not steady after {plan.warmup_limit_s:g} s of warm-up." for arm in restless]
    clock.done_s = clock.total_s
    clock.now("measured")
    return BenchmarkResult(tuple(one.measurement(plan, environment) for one in running), tuple(warnings), interrupted)


def _block(
    running: Sequence[_RunningArm],
    number: int,
    order: random.Random,
    monitor: LoadMonitor,
    pids: Sequence[int],
    clock: _Clock,
    window_s: float,
) -> None:
    """One block: every arm there and back; nothing is kept unless the whole block is sound."""
    there = order.sample(list(running), len(running))
    windows: dict[str, list[_Window]] = {one.arm.name: [] for one in running}
    for one in [*there, *reversed(there)]:
        windows[one.arm.name].append(one.window(monitor, pids))
        clock.advance(window_s)
        clock.now(f"block {number + 1}: {one.arm.name}")
    for one in running:
        one.add(number, windows[one.arm.name])


def _idle(running: Sequence[_RunningArm], seconds: float, clock: _Clock) -> None:
    """An idle window of all arms at once; a meter that fails in it leaves no figure: the idle share stays unknown."""
    clock.now("idle")
    try:
        started = time.perf_counter()
        before = [one.read() for one in running]
        time.sleep(seconds)
        after = [one.read() for one in running]
        elapsed = time.perf_counter() - started
        for one, start, end in zip(running, before, after, strict=True):
            for key, joules in one.joules(start, end).items():
                one.idle_w.setdefault(key, []).append(joules / elapsed)
    except MeterError:
        return
    finally:
        clock.advance(seconds)

"""The protocol, run for real on tiny models with the estimating meter; no test looks at how long anything took."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from compressor.benchmark import gauges, runner
from compressor.benchmark.runner import Arm, run_benchmark
from compressor.environment import Others
from compressor.errors import MeasurementError, MeterError
from compressor.model.base import Arrays
from compressor.results import Artifact, MeterInfo, Plan, Reading, RuntimeInfo

ARTIFACT = Artifact("chain.onnx", "onnx", "00", 1, (), (), 20, 1, ())

in_process = pytest.mark.usefixtures("in_process")
"""For the mechanics; what depends on processes has real ones."""


def at_length(plan: Plan) -> Plan:
    """Windows and a warm-up for which a process is worth starting."""
    return replace(plan, window_s=0.05, warmup_limit_s=0.3)


def workers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "compressor.benchmark.worker" in p.cmdline()]


def test_every_arm_finishes_every_block(arms: list[Arm], inputs: Arrays, plan: Plan) -> None:
    told: list[tuple[float, float, str]] = []
    result = run_benchmark(
        arms, inputs, at_length(plan), meters=["cpu-time"], watts_per_core=5.0, on_progress=lambda *a: told.append(a)
    )
    assert not result.interrupted
    assert [m.arm for m in result.measurements] == ["A", "A twin"]
    for one in result.measurements:
        assert [trial.block for trial in one.trials] == [0, 1, 2]
        assert one.runtime.name == "onnxruntime"
        assert one.latency is not None
        # Every timed call was counted, and warm-up was not.
        assert one.latency.calls * plan.batch == sum(trial.inferences for trial in one.trials)
        assert len(one.latency.percentiles_s) == 101
        assert one.latency.p50_s <= one.latency.p90_s <= one.latency.p99_s
        # The mean call lies between the shortest and the longest, so both are in seconds.
        mean_s = sum(trial.elapsed_s for trial in one.trials) / one.latency.calls
        assert one.latency.percentiles_s[0] <= mean_s <= one.latency.percentiles_s[100]
        assert one.peak_memory_bytes is not None
        assert one.peak_memory_bytes > 10e6
        for trial in one.trials:
            # The meter's window is the worker's run and the way there and back.
            assert trial.energy_j["cpu-time/cpu"] >= trial.cpu_s * 5.0
            assert trial.elapsed_s > 0
    assert told[-1][0] == told[-1][1]
    assert all(done <= total * 1.001 for done, total, _ in told)
    assert workers() == []


@in_process
def test_orders_are_random_palindromes_fixed_by_the_seed(
    chain: Path, inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real = runner._RunningArm.window

    def noted(self: Any, *arguments: Any) -> Any:
        order.append(self.arm.name)
        return real(self, *arguments)

    monkeypatch.setattr(runner._RunningArm, "window", noted)
    three = [Arm(name, "baseline", ARTIFACT, chain) for name in "ABC"]
    run_benchmark(three, inputs, plan, meters=["cpu-time"])
    blocks = [order[i : i + 6] for i in range(0, 18, 6)]
    assert all(sorted(block[:3]) == ["A", "B", "C"] and block == block[::-1] for block in blocks)
    assert len({tuple(block) for block in blocks}) > 1
    first, order[:] = order[:], []
    run_benchmark(three, inputs, plan, meters=["cpu-time"])
    assert order == first


def test_waiting_arm_burns_no_cpu(chain: Path, inputs: Arrays) -> None:
    # Two threads, so that there is a pool that could spin. At 1 W a core, idle watts are busy cores.
    plan = Plan("custom", 2, 2, 1, window_s=0.05, idle_s=1.0, warmup_limit_s=0.3, seed=0)
    arm = Arm("A", "baseline", ARTIFACT, chain)
    (one,) = run_benchmark([arm], inputs, plan, meters=["cpu-time"], watts_per_core=1.0).measurements
    assert one.idle_power_w["cpu-time/cpu"] < 0.01


class ScriptedMeter:
    """A mock of a machine's counter: it adds what it is told at each reading, or fails."""

    def __init__(self, steps: Iterator[float | str], scope: str = "machine", period_s: float = 0.0) -> None:
        self.info = MeterInfo("mock", ("all",), "measured", scope, period_s, 1e-6, "a mock")  # type: ignore[arg-type]
        self.steps, self.joules, self.closed = steps, 0.0, 0

    def read(self) -> Reading:
        step = next(self.steps, 1.0)
        if isinstance(step, str):
            raise MeterError(step, where="mock")
        self.joules += step
        return Reading(time.monotonic(), {"all": self.joules})

    def close(self) -> None:
        self.closed += 1


def use(monkeypatch: pytest.MonkeyPatch, meter: ScriptedMeter) -> list[str]:
    opened: list[str] = []
    monkeypatch.setattr(gauges, "open_meter", lambda name, _: opened.append(name) or meter)
    return opened


@in_process
def test_machine_wide_meter_is_opened_once_and_closed(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = ScriptedMeter(itertools.repeat(1.0))
    opened = use(monkeypatch, meter)
    result = run_benchmark(arms, inputs, plan, meters=["mock"])
    assert (opened, meter.closed) == (["mock"], 1)
    # 1 J a reading, two windows a block; idle windows: each arm's two readings have the other's between them.
    assert [trial.energy_j for trial in result.measurements[0].trials] == [{"mock/all": 2.0}] * 3
    assert result.measurements[0].idle_power_w["mock/all"] > 0


@in_process
@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        ("lost the counter", "mock: lost the counter"),
        (0.0, "mock: all stood still for a whole window"),
        (-5.0, "mock: counted -5 J in mock/all, less than nothing"),
    ],
)
def test_bad_window_discards_its_block_with_the_cause_and_reruns_it(
    bad: float | str, cause: str, arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four readings of the first idle window, then the first window's second reading goes wrong.
    use(monkeypatch, ScriptedMeter(iter([1.0] * 5 + [bad])))
    result = run_benchmark(arms, inputs, plan, meters=["mock"])
    rejected = [r for one in result.measurements for r in one.rejected]
    assert [(r.block, r.cause) for r in rejected] == [(0, cause)]
    assert result.warnings[0] == f"1 block was discarded and run again: {cause}."
    for one in result.measurements:
        assert [(trial.block, trial.energy_j) for trial in one.trials] == [(b, {"mock/all": 2.0}) for b in range(3)]


class SlowMeter(ScriptedMeter):
    """A mock of a meter of 10 W whose every reading takes a second, by a clock of its own."""

    def read(self) -> Reading:
        self.joules += 10.0
        return Reading(self.joules / 10.0, {"all": self.joules})


@in_process
def test_idle_power_is_by_the_meters_own_time(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, SlowMeter(iter(())))
    result = run_benchmark(arms, inputs, plan, meters=["mock"])
    assert all(m.idle_power_w == {"mock/all": pytest.approx(10.0)} for m in result.measurements)


@in_process
def test_counter_that_stood_still_while_idle_tells_no_idle_power(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four readings in the idle window of each block.
    use(monkeypatch, ScriptedMeter(itertools.cycle([0.0] * 4 + [1.0] * 8)))
    result = run_benchmark(arms, inputs, plan, meters=["mock"])
    assert all(m.idle_power_w == {} and len(m.trials) == 3 for m in result.measurements)


@in_process
def test_meter_too_coarse_for_a_window_discards_the_block(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = ScriptedMeter(itertools.repeat(4.0))
    meter.info = replace(meter.info, resolution_j=1.0)
    use(monkeypatch, meter)
    result = run_benchmark(arms, inputs, plan, meters=["mock"])
    causes = {r.cause for m in result.measurements for r in m.rejected}
    assert causes == {"mock: a window holds 4 J, and it counts in steps of 1 J"}


@in_process
def test_meter_that_never_recovers_ends_the_run_without_trials(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, ScriptedMeter(itertools.repeat("gone")))
    result = run_benchmark(arms, inputs, plan, meters=["mock"])
    assert all(one.trials == () and one.idle_power_w == {} for one in result.measurements)
    assert result.warnings[0] == "Only 0 of 3 blocks were finished (4 were discarded)."


@in_process
def test_foreign_load_discards_the_block(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At the start of the run, in the idle window, then in the windows.
    loads = iter([0.0, 0.0, 0.5])
    monkeypatch.setattr(runner.LoadMonitor, "stop", lambda _: Others(next(loads, 0.0)))
    monkeypatch.setattr(runner, "FOREIGN_LOAD_LIMIT", 0.15)
    told: list[float] = []
    result = run_benchmark(arms, inputs, plan, meters=["cpu-time"], on_progress=lambda done, _, __: told.append(done))
    assert sum(after < before for before, after in pairwise(told)) == 1  # the block that is run again is not done
    (rejected,) = [r for one in result.measurements for r in one.rejected]
    assert rejected.cause == "other processes kept 50% of the cores busy"
    assert all(len(one.trials) == 3 for one in result.measurements)


@in_process
def test_a_trial_bears_the_larger_load_of_its_windows(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At the start of the run, in the idle window, then there and back: the first arm has the outer two.
    loads = iter([0.0, 0.0, 0.04, 0.01, 0.02, 0.03])
    monkeypatch.setattr(runner.LoadMonitor, "stop", lambda _: Others(next(loads, 0.0)))
    result = run_benchmark(arms, inputs, plan, meters=["cpu-time"])
    assert {one.trials[0].foreign_load for one in result.measurements} == {0.04, 0.02}


@in_process
def test_busy_idle_window_tells_no_idle_power(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FOREIGN_LOAD_LIMIT", 0.15)
    # At the start of the run; then the idle window and two arms there and back, in every block or in the first.
    for loads, known in (
        (itertools.chain([0.0], itertools.cycle([0.5, *[0.0] * 4])), False),
        (itertools.chain([0.0, 0.5], itertools.repeat(0.0)), True),
    ):
        monkeypatch.setattr(runner.LoadMonitor, "stop", lambda _, loads=loads: Others(next(loads)))
        result = run_benchmark(arms, inputs, plan, meters=["cpu-time"])
        assert all(len(one.trials) == 3 and bool(one.idle_power_w) is known for one in result.measurements)
        told = (
            "No idle window was sound, so energy above idle is not known: other processes kept 50% of the cores busy."
        )
        assert (told in result.warnings) is not known


@in_process
def test_windows_last_a_hundred_periods_of_the_slowest_counter(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, ScriptedMeter(itertools.repeat(1.0), period_s=0.0004))
    asked: list[tuple[float, float]] = []
    real = runner._RunningArm.warm_up

    def warm_up(self: Any, limit_s: float, window_s: float) -> None:
        asked.append((limit_s, window_s))
        real(self, 0.0, window_s)

    monkeypatch.setattr(runner._RunningArm, "warm_up", warm_up)
    told: list[float] = []
    plan = replace(plan, warmup_limit_s=8.0)
    result = run_benchmark(arms, inputs, plan, meters=["mock"], on_progress=lambda _, total, __: told.append(total))
    # Later blocks find what the first has made, and are given half its time.
    assert asked == [(8.0, pytest.approx(0.04))] * 2 + [(4.0, pytest.approx(0.04))] * 4
    assert "A was not steady when its warm-up ended, in one block at least." in result.warnings
    # The record and the warning say so, and the time left is that of the longer windows.
    assert {m.plan.window_s for m in result.measurements} == {0.04}
    assert result.warnings[0] == (
        "Windows lasted 0.04 s instead of 0.02 s: mock moves every 0.0004 s, and a window needs 100 of its periods."
    )
    assert told[-1] - told[0] == pytest.approx((plan.blocks * len(arms) * 2 + 3) * (0.04 - 0.02))
    assert {m.plan.idle_s for m in result.measurements} == {0.04}


class EventMeter:
    """A mock counter that only moves by what happens: so much for a load, a warm-up, a call window."""

    def __init__(self) -> None:
        self.info = MeterInfo("mock", ("all",), "measured", "machine", 0.0, 1e-6, "a mock")
        self.joules, self.epoch = 0.0, 0

    def read(self) -> Reading:
        return Reading(time.monotonic(), {"all": self.joules}, self.epoch)

    def close(self) -> None: ...


def count_events(monkeypatch: pytest.MonkeyPatch, meter: EventMeter, costs: dict[str, float]) -> None:
    """Add each event's joules to the meter: loading, warming up, and every run of a window."""

    def costing(name: str) -> Any:
        real = getattr(runner._RunningArm, name)

        def with_cost(self: Any, *arguments: Any) -> Any:
            found = real(self, *arguments)
            meter.joules += costs[name]
            return found

        return with_cost

    for name in ("watch", "warm_up"):
        monkeypatch.setattr(runner._RunningArm, name, costing(name))
    ask = runner.WorkerProcess.ask

    def asked(self: Any, do: str, *timing: float, **arguments: Any) -> Any:
        meter.joules += costs["run"] if do == "run" else costs["other"]
        return ask(self, do, *timing, **arguments)

    monkeypatch.setattr(runner.WorkerProcess, "ask", asked)


@in_process
def test_windows_never_include_load_or_warm_up(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = EventMeter()
    monkeypatch.setattr(gauges, "open_meter", lambda *_: meter)
    count_events(monkeypatch, meter, {"watch": 1e6, "warm_up": 1e5, "other": 1e4, "run": 1.0})
    result = run_benchmark(arms, inputs, plan, meters=["mock"])
    # Two windows of one run each; the loads and warm-ups of every block are many times that and in none of them.
    assert [trial.energy_j for m in result.measurements for trial in m.trials] == [{"mock/all": 2.0}] * 6
    assert meter.joules > 6 * 1e6


@in_process
def test_lost_count_discards_the_block_and_the_run_goes_on(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mock whose epoch rises in the middle of a window of the second block, as after a wrap that was missed."""
    meter = EventMeter()
    monkeypatch.setattr(gauges, "open_meter", lambda *_: meter)
    count_events(monkeypatch, meter, {"watch": 0.0, "warm_up": 0.0, "other": 0.0, "run": 1.0})
    real, windows = runner.WorkerProcess.ask, itertools.count()
    in_window = False

    def asked(self: Any, do: str, *timing: float, **arguments: Any) -> Any:
        if do == "run" and in_window and next(windows) == 5:
            meter.epoch += 1
        return real(self, do, *timing, **arguments)

    window = runner._RunningArm.window

    def watched(self: Any, *arguments: Any) -> Any:
        nonlocal in_window
        in_window = True
        try:
            return window(self, *arguments)
        finally:
            in_window = False

    monkeypatch.setattr(runner.WorkerProcess, "ask", asked)
    monkeypatch.setattr(runner._RunningArm, "window", watched)
    result = run_benchmark(arms, inputs, plan, meters=["mock"])
    (rejected,) = [r for m in result.measurements for r in m.rejected]
    assert (rejected.block, rejected.cause) == (1, "mock: lost count between two readings")
    assert [[trial.block for trial in m.trials] for m in result.measurements] == [[0, 1, 2]] * 2
    assert all(trial.energy_j == {"mock/all": 2.0} for m in result.measurements for trial in m.trials)


def mock_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A mock driver with one GPU, on this machine's clock, which the benchmark's windows run by."""
    from meters.test_nvml import FakeNvml, Gpu

    class Driver(FakeNvml):
        @property
        def now(self) -> float:
            return time.monotonic()

        @now.setter
        def now(self, _: float) -> None: ...

    gpu = Gpu(tick_s=1e-4)
    monkeypatch.setitem(sys.modules, "pynvml", Driver(gpu))
    return gpu


@in_process
def test_utilisation_of_a_gpu_is_its_mean_over_the_windows(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real ``nvml`` meter over a mock driver that tells 37 %."""
    mock_gpu(monkeypatch).load = 37
    result = run_benchmark(arms, inputs, plan, meters=["nvml"])
    for measurement in result.measurements:
        for trial in measurement.trials:
            assert trial.utilisation == {"nvml/gpu-0": pytest.approx(0.37, rel=0.05)}


@in_process
def test_gpu_lost_in_mid_run_ends_it_with_the_finished_blocks(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is here: the real ``nvml`` meter over a mock driver whose GPU falls off the bus in the second block."""
    gpu = mock_gpu(monkeypatch)
    real, windows = runner._RunningArm.window, itertools.count()

    def window(self: Any, *arguments: Any) -> Any:
        if next(windows) == 5:
            gpu.error = 15  # NVML_ERROR_GPU_IS_LOST
        return real(self, *arguments)

    monkeypatch.setattr(runner._RunningArm, "window", window)
    result = run_benchmark(arms, inputs, plan, meters=["nvml"])
    causes = {r.cause for m in result.measurements for r in m.rejected}
    assert causes == {"nvml/gpu-0: the GPU is lost: it fell off the bus; restart the machine; dmesg (Xid) says why"}
    assert [[trial.block for trial in m.trials] for m in result.measurements] == [[0], [0]]
    assert all(trial.energy_j["nvml/gpu-0"] > 0 for m in result.measurements for trial in m.trials)
    assert result.warnings[0] == "Only 1 of 3 blocks were finished (4 were discarded)."


@in_process
def test_interrupt_keeps_the_finished_blocks(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = runner._RunningArm.window, itertools.count()

    def interrupted(self: Any, *arguments: Any) -> Any:
        if next(count) == 6:  # in the middle of the second block
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(runner._RunningArm, "window", interrupted)
    result = run_benchmark(arms, inputs, plan, meters=["cpu-time"])
    assert result.interrupted
    assert [len(one.trials) for one in result.measurements] == [1, 1]
    assert result.warnings[0] == "Only 1 of 3 blocks were finished (interrupted)."


def test_interrupt_while_a_worker_runs_does_not_confuse_its_answers(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real SIGINT to this process while it waits for a window; the answer to that window is not taken for another."""
    main = threading.main_thread().ident
    assert main is not None
    real, count = runner._RunningArm.window, itertools.count()

    def window(self: Any, *arguments: Any) -> Any:
        if next(count) == 5:
            self.calls *= 10
            threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()
        return real(self, *arguments)

    monkeypatch.setattr(runner._RunningArm, "window", window)
    result = run_benchmark(arms, inputs, at_length(plan), meters=["cpu-time"])
    assert result.interrupted
    assert all(one.latency is not None and one.latency.calls > 0 for one in result.measurements)
    assert workers() == []


def test_interrupt_while_workers_load_waits_for_none_of_them(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one stands in for a large model: it hangs where it would load, and nothing but a signal ends it."""
    real, started = runner.WorkerProcess, []

    class Loading(real):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            started.append(self)

        def wait_until_loaded(self) -> None:
            os.kill(started[-1].pid, signal.SIGSTOP)
            raise KeyboardInterrupt

    monkeypatch.setattr(runner, "WorkerProcess", Loading)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(arms, inputs, plan, meters=["cpu-time"])
    assert [worker._process.returncode for worker in started] == [-signal.SIGKILL] * 2


def test_worker_that_dies_is_named_with_its_signal(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = runner._RunningArm.window, itertools.count()

    def window(self: Any, *arguments: Any) -> Any:
        if next(count) == 2:
            os.kill(self.worker.pid, signal.SIGKILL)
        return real(self, *arguments)

    monkeypatch.setattr(runner._RunningArm, "window", window)
    with pytest.raises((MeasurementError, MeterError)) as caught:
        run_benchmark(arms, inputs, plan, meters=["cpu-time"])
    assert "killed by signal 9 (out of memory?)" in str(caught.value)
    assert workers() == []


def test_worker_that_dies_in_a_later_block_leaves_the_finished_ones(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a lost GPU takes a worker with it; the meter, which cannot be read either, is not what is blamed."""
    real, count = runner._RunningArm.window, itertools.count()

    def unreadable() -> None:
        raise MeterError("gone", where="mock")

    def window(self: Any, *arguments: Any) -> Any:
        if next(count) == 6:
            os.kill(self.worker.pid, signal.SIGSEGV)
            os.waitid(os.P_PID, self.worker.pid, os.WEXITED | os.WNOWAIT)
            self.read = unreadable
        return real(self, *arguments)

    monkeypatch.setattr(runner._RunningArm, "window", window)
    result = run_benchmark(arms, inputs, plan, meters=["cpu-time"])
    assert [len(one.trials) for one in result.measurements] == [1, 1]
    assert not result.interrupted
    assert result.warnings[0].startswith("Only 1 of 3 blocks were finished (A")
    assert "the worker was killed by signal 11" in result.warnings[0]
    assert workers() == []


def test_artifact_that_cannot_be_loaded_is_named(tmp_path: Path, inputs: Arrays, plan: Plan) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(MeasurementError, match=r"^A: .*broken\.onnx"):
        run_benchmark([Arm("A", "baseline", ARTIFACT, tmp_path / "broken.onnx")], inputs, plan, meters=["cpu-time"])


class Scripted:
    """Stands in for a worker whose calls take as long as it is told, one figure per run."""

    def __init__(self, *per_call_s: float) -> None:
        self.per_call_s, self.asked = iter(per_call_s), []

    def ask(self, do: str, expected_s: float = 0.0, calls: int = 0) -> dict[str, float]:
        self.asked.append(calls or do)
        return {"elapsed_s": calls * next(self.per_call_s)} if do == "run" else {}


def test_warm_up_ends_when_two_windows_agree_and_tells_the_calls_per_window(
    arms: list[Arm], plan: Plan, tmp_path: Path
) -> None:
    one = runner._RunningArm(arms[0], plan, tmp_path)
    # The first call is too short to be a window; 1.2 and 1 ms differ by more than 2 %.
    one.worker = Scripted(1e-3, 1.2e-3, 1e-3, 1.01e-3)  # type: ignore[assignment]
    one.warm_up(limit_s=60.0, window_s=1.0)
    assert one.worker.asked == [1, 250, 209, 250, "forget"]
    assert (one.calls, one.steady) == (991, True)
    # Nor does it count as one where the first window agrees with it.
    one.worker = Scripted(1e-3, 1e-3, 1e-3)
    one.warm_up(limit_s=60.0, window_s=1.0)
    assert one.worker.asked == [1, 250, 250, "forget"]
    one.worker = Scripted(0.5, 0.5)
    one.warm_up(limit_s=60.0, window_s=1.0)
    assert one.worker.asked == [1, 1, "forget"]
    assert (one.calls, one.steady) == (2, True)


def test_what_is_made_of_the_blocks(arms: list[Arm], plan: Plan, tmp_path: Path) -> None:
    one = runner._RunningArm(arms[0], plan, tmp_path)
    one.runtime, one.meters = RuntimeInfo("mock", "1", "cpu", {}), ()
    one.load_s, one.peaks, one.idle_w = [3.0, 1.0, 2.0], [5, 9, 7], {"mock/all": [1.0, 3.0, 5.0]}
    found = one.measurement(runner.describe_environment())
    # Of the loads the first, in which torch.compile compiles; of the memory the most; of the idle power the mean.
    assert (found.load_s, found.peak_memory_bytes, found.idle_power_w) == (3.0, 9, {"mock/all": 3.0})
    assert found.latency is None


@in_process
def test_idle_windows_are_before_between_and_after(arms: list[Arm], inputs: Arrays, plan: Plan) -> None:
    told: list[str] = []
    run_benchmark(
        arms, inputs, replace(plan, blocks=5), meters=["cpu-time"], on_progress=lambda _, __, text: told.append(text)
    )
    blocks = [before.partition(":")[0] for before, text in pairwise(told) if text == "idle"]
    assert blocks == ["block 1 of 5", "block 3 of 5", "block 5 of 5"]


def test_an_arm_that_was_not_steady_once_is_said_to_be(arms: list[Arm], plan: Plan, tmp_path: Path) -> None:
    one = runner._RunningArm(arms[0], plan, tmp_path)
    one.worker = Scripted(0.5)  # type: ignore[assignment]
    one.warm_up(limit_s=0.0, window_s=1.2)
    assert (one.worker.asked, one.calls, one.steady) == ([1, "forget"], 3, False)
    one.worker = Scripted(0.5, 0.5)
    one.warm_up(limit_s=60.0, window_s=1.2)
    assert not one.steady

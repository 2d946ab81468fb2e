"""The protocol, run for real on tiny models with the estimating meter; no test looks at how long anything took."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compressor.benchmark import gauges, runner
from compressor.benchmark.runner import Arm, run_benchmark
from compressor.errors import MeasurementError, MeterError
from compressor.model.base import Arrays
from compressor.results import Artifact, MeterInfo, Plan, Reading

ARTIFACT = Artifact("chain.onnx", "onnx", "00", 1, (), (), 20, 1, ())


def test_every_arm_finishes_every_block(arms: list[Arm], inputs: Arrays, plan: Plan) -> None:
    told: list[tuple[float, float, str]] = []
    result = run_benchmark(
        arms, inputs, plan, meters=["cpu-time"], watts_per_core=5.0, on_progress=lambda *a: told.append(a)
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
        assert one.peak_memory_bytes is not None
        assert one.peak_memory_bytes > 10e6
        for trial in one.trials:
            # The meter's window is the worker's run and the way there and back.
            assert trial.energy_j["cpu-time/cpu"] >= trial.cpu_s * 5.0
            assert trial.elapsed_s >= 2 * plan.window_s * 0.5
    assert told[-1][0] == told[-1][1]
    assert all(done <= total * 1.001 for done, total, _ in told)


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
        return Reading(0.0, {"all": self.joules})

    def close(self) -> None:
        self.closed += 1


def use(monkeypatch: pytest.MonkeyPatch, meter: ScriptedMeter) -> list[str]:
    opened: list[str] = []
    monkeypatch.setattr(gauges, "open_meter", lambda name, _: opened.append(name) or meter)
    return opened


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


def test_meter_that_never_recovers_ends_the_run_without_trials(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, ScriptedMeter(itertools.repeat("gone")))
    result = run_benchmark(arms, inputs, plan, meters=["mock"])
    assert all(one.trials == () and one.idle_power_w == {} for one in result.measurements)
    assert result.warnings[0] == "Only 0 of 3 blocks were finished (4 were discarded)."


def test_foreign_load_discards_the_block(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = iter([0.0, 0.5])
    monkeypatch.setattr(runner.LoadMonitor, "stop", lambda _: next(loads, 0.0))
    monkeypatch.setattr(runner, "FOREIGN_LOAD_LIMIT", 0.15)
    result = run_benchmark(arms, inputs, plan, meters=["cpu-time"])
    (rejected,) = [r for one in result.measurements for r in one.rejected]
    assert rejected.cause == "other processes kept 50% of the cores busy"
    assert all(len(one.trials) == 3 for one in result.measurements)


def test_windows_last_a_hundred_periods_of_the_slowest_counter(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, ScriptedMeter(itertools.repeat(1.0), period_s=0.002))
    asked: list[float] = []
    real = runner._RunningArm.warm_up
    monkeypatch.setattr(
        runner._RunningArm, "warm_up", lambda self, limit, window: (asked.append(window), real(self, limit, window))[1]
    )
    told: list[float] = []
    result = run_benchmark(arms, inputs, plan, meters=["mock"], on_progress=lambda _, total, __: told.append(total))
    assert asked == [pytest.approx(0.2)] * 6
    # The record and the warning say so, and the time left is that of the longer windows.
    assert {m.plan.window_s for m in result.measurements} == {0.2}
    assert result.warnings[0] == (
        "Windows lasted 0.2 s instead of 0.05 s: mock moves every 0.002 s, and a window needs 100 of its periods."
    )
    assert told[-1] - told[0] == pytest.approx(plan.blocks * len(arms) * 2 * (0.2 - 0.05))


class EventMeter:
    """A mock counter that only moves by what happens: so much for a load, a warm-up, a call window."""

    def __init__(self) -> None:
        self.info = MeterInfo("mock", ("all",), "measured", "machine", 0.0, 1e-6, "a mock")
        self.joules, self.epoch = 0.0, 0

    def read(self) -> Reading:
        return Reading(0.0, {"all": self.joules}, self.epoch)

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

    def asked(self: Any, do: str, **arguments: Any) -> Any:
        meter.joules += costs["run"] if do == "run" else costs["other"]
        return ask(self, do, **arguments)

    monkeypatch.setattr(runner.WorkerProcess, "ask", asked)


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


def test_lost_count_discards_the_block_and_the_run_goes_on(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mock whose epoch rises in the middle of a window of the second block, as after a wrap that was missed."""
    meter = EventMeter()
    monkeypatch.setattr(gauges, "open_meter", lambda *_: meter)
    count_events(monkeypatch, meter, {"watch": 0.0, "warm_up": 0.0, "other": 0.0, "run": 1.0})
    real, windows = runner.WorkerProcess.ask, itertools.count()
    in_window = False

    def asked(self: Any, do: str, **arguments: Any) -> Any:
        if do == "run" and in_window and next(windows) == 5:
            meter.epoch += 1
        return real(self, do, **arguments)

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


def test_gpu_lost_in_mid_run_ends_it_with_the_finished_blocks(
    arms: list[Arm], inputs: Arrays, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is here: the real ``nvml`` meter over a mock driver whose GPU falls off the bus in the second block."""
    from meters.test_nvml import FakeNvml, Gpu

    class Driver(FakeNvml):
        """The mock on this machine's clock, which the benchmark's windows run by."""

        @property
        def now(self) -> float:
            return time.monotonic()

        @now.setter
        def now(self, _: float) -> None: ...

    gpu = Gpu(tick_s=1e-4)
    monkeypatch.setitem(sys.modules, "pynvml", Driver(gpu))
    real, windows = runner._RunningArm.window, itertools.count()

    def window(self: Any, *arguments: Any) -> Any:
        if next(windows) == 5:
            gpu.error = FakeNvml.NVML_ERROR_GPU_IS_LOST
        return real(self, *arguments)

    monkeypatch.setattr(runner._RunningArm, "window", window)
    result = run_benchmark(arms, inputs, plan, meters=["nvml"])
    causes = {r.cause for m in result.measurements for r in m.rejected}
    assert causes == {"nvml/gpu-0: the GPU is lost: it fell off the bus; restart the machine; dmesg (Xid) says why"}
    assert [[trial.block for trial in m.trials] for m in result.measurements] == [[0], [0]]
    assert all(trial.energy_j["nvml/gpu-0"] > 0 for m in result.measurements for trial in m.trials)
    assert result.warnings[0] == "Only 1 of 3 blocks were finished (4 were discarded)."


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
    result = run_benchmark(arms, inputs, plan, meters=["cpu-time"])
    assert result.interrupted
    assert all(one.latency is not None and one.latency.calls > 0 for one in result.measurements)


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


def test_artifact_that_cannot_be_loaded_is_named(tmp_path: Path, inputs: Arrays, plan: Plan) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(MeasurementError, match=r"^A: .*broken\.onnx"):
        run_benchmark([Arm("A", "baseline", ARTIFACT, tmp_path / "broken.onnx")], inputs, plan, meters=["cpu-time"])


def test_no_worker_outlives_the_run(arms: list[Arm], inputs: Arrays, plan: Plan) -> None:
    import psutil

    run_benchmark(arms, inputs, plan, meters=["cpu-time"])
    assert [p for p in psutil.Process().children() if "compressor.benchmark.worker" in p.cmdline()] == []

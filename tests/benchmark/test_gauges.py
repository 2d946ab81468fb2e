"""The meters of a run, mocks of them, and the clock of the progress bar."""

from __future__ import annotations

import os
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from compressor.benchmark import gauges
from compressor.benchmark.gauges import Clock, Gauges, load_beside
from compressor.results import MeterInfo, Trial

WORKER: Any = SimpleNamespace(pid=os.getpid())


class Meter:
    """A mock that remembers whether it was closed."""

    def __init__(self, name: str, scope: Any, period_s: float) -> None:
        self.info = MeterInfo(name, ("all",), "measured", scope, period_s, 1e-6, "a mock")
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Meter]:
    """Every meter that was opened; ``own`` sees a process, the others the machine."""
    found: list[Meter] = []
    kinds = {"own": ("process", 0.01), "quick": ("machine", 0.001), "slow": ("machine", 0.1)}

    def open_meter(name: str, options: Any) -> Meter:
        assert options.watts_per_core == 5.0
        assert options.cpu_clock() > 0
        found.append(Meter(name, *kinds[name]))
        return found[-1]

    monkeypatch.setattr(gauges, "open_meter", open_meter)
    monkeypatch.setattr(gauges, "open_ladder", lambda options: [open_meter(name, options) for name in ("own", "quick")])
    return found


def test_what_sees_a_process_is_opened_for_each_worker_and_the_rest_once(opened: list[Meter]) -> None:
    several = Gauges(["own", "slow", "quick"], 5.0)
    for _ in range(2):
        with ExitStack() as stack:
            names = [meter.info.name for meter in several.of(WORKER, stack)]
            assert names == ["own", "slow", "quick"]
            assert [meter.closed for meter in opened if meter.info.name != "own"] == [0, 0]
    assert [(meter.info.name, meter.closed) for meter in opened] == [("own", 1), ("slow", 0), ("quick", 0), ("own", 1)]
    assert (several.slowest, several.slowest_s) == ("slow", 0.1)
    several.close()
    assert [meter.closed for meter in opened] == [1, 1, 1, 1]


def test_the_ladder_is_climbed_once(opened: list[Meter]) -> None:
    ladder = Gauges([], 5.0)
    for _ in range(2):
        with ExitStack() as stack:
            assert [meter.info.name for meter in ladder.of(WORKER, stack)] == ["own", "quick"]
    assert [meter.info.name for meter in opened] == ["own", "quick", "own"]
    assert ladder.names == ("own", "quick")


def test_the_clock_never_runs_past_what_was_expected() -> None:
    told: list[tuple[float, float, str]] = []
    clock = Clock(10.0, lambda *a: told.append(a))
    clock.now("begun")
    clock.advance(4.0)
    clock.now("half")
    clock.advance(7.0)
    clock.now("done")
    assert told == [(0.0, 10.0, "begun"), (4.0, 10.0, "half"), (10.0, 10.0, "done")]
    Clock(1.0, None).now("nobody listens")


def test_load_of_others_that_a_meter_counted_too_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)

    def arm(info: MeterInfo, *trials: Trial) -> Any:
        return SimpleNamespace(meters=(info,), trials=trials)

    process, package = Meter("own", "process", 0.0).info, Meter("rapl", "package", 0.001).info
    busy = [Trial(0, 1, 2.0, 1.0, {}, 0.05, None), Trial(1, 1, 2.0, 3.0, {}, 0.1, None)]
    assert load_beside([arm(process, busy[0]), arm(package, busy[1])]) == [
        "Other processes kept 4.8 cores busy beside the 1 of the arms: rapl counted theirs too, which draws the ratios "
        "of energy toward those of time."
    ]
    assert load_beside([arm(process, *busy)]) == []
    assert load_beside([arm(package)]) == []
    assert load_beside([arm(package, Trial(0, 1, 2.0, 2.0, {}, 0.25 / 64, None))]) == []
    assert len(load_beside([arm(package, Trial(0, 1, 2.0, 1.9, {}, 0.25 / 64, None))])) == 1


def test_a_sampler_that_was_late_is_told(opened: list[Meter]) -> None:
    several = Gauges(["slow", "quick"], 5.0)
    with ExitStack() as stack:
        slow, quick = several.of(WORKER, stack)
    slow.largest_gap_s, quick.largest_gap_s = 0.2, 0.0021  # type: ignore[attr-defined]
    assert several.gap_notes() == ["quick: 0.0021 s passed between two power samples"]

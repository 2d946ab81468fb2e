"""The meters of a run, mocks of them, and the clock of the progress bar."""

from __future__ import annotations

import os
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from compressor.benchmark import gauges
from compressor.benchmark.gauges import Clock, Gauges
from compressor.results import MeterInfo

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

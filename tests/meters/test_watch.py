"""Live watts: scripted mock meters, and this machine's own estimate."""

from __future__ import annotations

from itertools import islice

import pytest

from compressor.errors import MeterError
from compressor.meters.watch import Power, open_usable, watch
from compressor.results import MeterInfo, Reading


class Scripted:
    """A mock meter that gives what it is told, a second apart."""

    def __init__(self, *script: float | str | None, provenance: str = "measured", epochs: tuple[int, ...] = ()) -> None:
        self.info = MeterInfo("mock", ("all",), provenance, "machine", 0.0, 1e-6, "a mock")  # type: ignore[arg-type]
        self.script, self.epochs, self.at = script, epochs, 0

    def read(self) -> Reading:
        step = self.script[self.at]
        self.at += 1
        if isinstance(step, str):
            raise MeterError(step, where="mock")
        epoch = self.epochs[self.at - 1] if self.epochs else 0
        return Reading(float(self.at), {"all": step or 0.0}, epoch)

    def close(self) -> None: ...


def lines(meter: Scripted) -> list[Power]:
    told = watch([meter], sleep=lambda _: None)
    return [power for powers in islice(told, len(meter.script) - 1) for power in powers]


def test_watts_are_joules_over_the_meters_own_time() -> None:
    assert [power.watts for power in lines(Scripted(100.0, 112.0, 115.0))] == [12.0, 3.0]


def test_failed_reading_says_why_and_the_next_goes_on() -> None:
    found = lines(Scripted(0.0, "lost it", 5.0, 8.0))
    assert [(p.watts, p.why) for p in found] == [(None, "mock: lost it"), (None, "mock: lost it"), (3.0, "")]


def test_lost_count_has_no_watts() -> None:
    found = lines(Scripted(0.0, 5.0, 8.0, epochs=(0, 1, 1)))
    assert [(p.watts, p.why) for p in found] == [(None, "mock: lost count between two readings"), (3.0, "")]


def test_counter_that_did_not_move_is_absent_not_zero() -> None:
    assert lines(Scripted(4.0, 4.0)) == [Power("mock/all", None, "measured", "no new value yet")]
    assert lines(Scripted(4.0, 4.0, provenance="estimated")) == [Power("mock/all", 0.0, "estimated")]


def test_estimate_sees_all_processes() -> None:
    (meter,) = open_usable(["cpu-time"])
    try:
        (power,) = next(watch([meter], period_s=0.05))
        assert (power.domain, power.provenance) == ("cpu-time/cpu", "estimated")
    finally:
        meter.close()


def test_unknown_name_is_an_error() -> None:
    with pytest.raises(MeterError, match="there is no meter 'rappl'"):
        open_usable(["cpu-time", "rappl"])

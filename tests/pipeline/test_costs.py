"""What a stage costs, by a mock meter."""

from __future__ import annotations

from typing import Any

import pytest

from compressor.errors import MeterError
from compressor.pipeline import costs
from compressor.pipeline.costs import Costs
from compressor.results import MeterInfo, Reading


class Meter:
    """A mock that counts a joule per reading, and fails when it is told to."""

    def __init__(self, name: str, fails_at: int = 9) -> None:
        self.info = MeterInfo(name, ("all",), "measured", "machine", 0.0, 1e-6, "a mock")
        self.fails_at, self.readings, self.closed = fails_at, 0, False

    def read(self) -> Reading:
        self.readings += 1
        if self.readings == self.fails_at:
            raise MeterError("gone", where=self.info.name)
        return Reading(0.0, {"all": float(self.readings)})

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    def these(*meters: Meter) -> None:
        known = {meter.info.name: meter for meter in meters}
        monkeypatch.setattr(costs, "open_meter", lambda name, _: known[name])
        monkeypatch.setattr(costs, "open_ladder", lambda _: meters)

    return these


@pytest.mark.parametrize("named", [True, False])
def test_time_and_joules_of_a_block(named: bool, use: Any) -> None:
    meters = Meter("a"), Meter("b")
    use(*meters)
    with Costs(["a", "b"] if named else [], None) as cost:
        sum(range(100_000))
    assert cost.energy_j == {"a/all": 1.0, "b/all": 1.0}
    assert cost.elapsed_s > 0
    assert cost.cpu_s > 0
    assert all(meter.closed for meter in meters)


def test_joules_that_cannot_be_read_at_the_end_are_absent_and_the_others_are_kept(use: Any) -> None:
    meters = Meter("a", fails_at=2), Meter("b")
    use(*meters)
    with Costs(["a", "b"], None) as cost:
        pass
    assert cost.energy_j == {"b/all": 1.0}
    assert all(meter.closed for meter in meters)


def test_a_meter_that_fails_at_the_start_fails_on_entry_and_none_stays_open(use: Any) -> None:
    meters = Meter("a"), Meter("b", fails_at=1)
    use(*meters)
    with pytest.raises(MeterError, match=r"^b: gone$"), Costs(["a", "b"], None):
        pytest.fail("the block must not be entered")
    assert all(meter.closed for meter in meters)


def test_a_stage_that_fails_closes_the_meters_and_reads_none(use: Any) -> None:
    meter = Meter("a")
    use(meter)
    with pytest.raises(ValueError, match="broken"), Costs(["a"], None):
        raise ValueError("broken")
    assert (meter.closed, meter.readings) == (True, 1)

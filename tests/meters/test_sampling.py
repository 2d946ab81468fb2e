from __future__ import annotations

import math
import threading
from collections.abc import Mapping

import pytest

from compressor.errors import MeterError
from compressor.meters.base import energy_between
from compressor.meters.sampling import CombinedMeter, SampledMeter
from compressor.results import MeterInfo

INFO = MeterInfo("sensor", ("rail",), "measured", "board", 0.1, 1e-6, "a sensor of the test")


class Sensor:
    """A power sensor over a simulated clock."""

    def __init__(self) -> None:
        self.now, self.broken = 0.0, ""

    def clock(self) -> float:
        return self.now

    def watts(self) -> Mapping[str, float]:
        if self.broken:
            raise MeterError(self.broken, where="sensor")
        return {"rail": 10.0 + 2.0 * self.now}

    def open(self) -> SampledMeter:
        return SampledMeter(INFO, self.watts, 0.1, clock=self.clock, thread=False)


def test_integrates_by_trapezoid_and_records_its_gap() -> None:
    sensor = Sensor()
    meter = sensor.open()
    start = meter.read()
    for step in (0.1, 0.4, 0.1, 0.9):
        sensor.now += step
        end = meter.read()
    assert energy_between(start, end, "sensor") == pytest.approx({"sensor/rail": 10.0 * 1.5 + 1.5**2})
    assert meter.largest_gap_s == pytest.approx(0.9)


def test_short_failure_is_bridged_and_long_one_loses_count() -> None:
    sensor = Sensor()
    meter = sensor.open()
    start = meter.read()
    sensor.now, sensor.broken = 0.5, "the sensor is away"
    with pytest.raises(MeterError, match=r"^sensor: the sensor is away$"):
        meter.read()
    sensor.now, sensor.broken = 0.9, ""
    assert energy_between(start, meter.read(), "sensor")["sensor/rail"] == pytest.approx(9.81)
    sensor.now = 4.9
    with pytest.raises(MeterError, match=r"^sensor: no power sample for 4 s$"):
        meter.read()
    with pytest.raises(MeterError, match=r"^sensor: lost count between two readings$"):
        energy_between(start, meter.read(), "sensor")


@pytest.mark.parametrize(("value", "shown"), [(-1.0, "-1"), (math.nan, "nan"), (math.inf, "inf")])
def test_impossible_power_is_an_error(value: float, shown: str) -> None:
    with pytest.raises(MeterError) as caught:
        SampledMeter(INFO, lambda: {"rail": value}, 0.1, thread=False)
    assert str(caught.value) == f"sensor: the sensor rail reads {shown} W"


def test_thread_samples_between_reads_and_reports_what_it_lost() -> None:
    sensor, sampled = Sensor(), threading.Semaphore(0)

    def watts() -> Mapping[str, float]:
        try:
            return sensor.watts()
        finally:
            sampled.release()

    meter = SampledMeter(INFO, watts, 0.001, clock=sensor.clock)

    def wait_for_two_samples() -> None:
        while sampled.acquire(blocking=False):
            pass
        sampled.acquire(timeout=10)
        sampled.acquire(timeout=10)

    try:
        start = meter.read()
        for _ in range(10):
            sensor.now += 0.5
            wait_for_two_samples()
        energy = energy_between(start, meter.read(), "sensor")["sensor/rail"]
        assert energy == pytest.approx(10 * 5 + 25)  # 5 s without a read: longer than the longest gap
        sensor.broken = "the sensor is away"
        wait_for_two_samples()
        sensor.now += 3.0
        sensor.broken = ""
        wait_for_two_samples()
        with pytest.raises(MeterError, match=r"^sensor: no power sample for 3 s \(the sensor is away\)$"):
            meter.read()
        assert meter.read().epoch == 1
    finally:
        meter.close()
    with pytest.raises(MeterError, match=r"^sensor: is closed$"):
        meter.read()


def test_the_thread_ends_when_the_meter_is_closed() -> None:
    sensor = Sensor()
    meter = SampledMeter(INFO, sensor.watts, 0.001, clock=sensor.clock)
    sampler = meter._thread
    assert sampler is not None
    assert sampler.is_alive()
    meter.close()
    assert not sampler.is_alive()
    sensor.open().close()


def test_parts_are_read_together() -> None:
    first, second = Sensor(), Sensor()
    other = MeterInfo("sensor", ("second",), "measured", "board", 0.1, 1e-6, "a sensor of the test")
    parts = first.open(), SampledMeter(other, lambda: {"second": 1.0}, 0.1, clock=second.clock, thread=False)
    closed: list[int] = []
    meter = CombinedMeter(INFO, parts, lambda: closed.append(1))
    first.now, second.now = 0.5, 0.7
    reading = meter.read()
    assert reading.time_s == 0.7
    assert reading.energy_j == {"rail": pytest.approx(5.25), "second": pytest.approx(0.7)}
    assert meter.largest_gap_s == 0.7
    meter.close()
    meter.close()
    assert closed == [1]
    assert CombinedMeter(INFO, (parts[0],)).largest_gap_s == 0.5

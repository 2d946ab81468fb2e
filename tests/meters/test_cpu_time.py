from __future__ import annotations

import time

import pytest

from compressor.errors import MeterError
from compressor.meters import cpu_time
from compressor.meters.base import MeterOptions, energy_between


def test_is_an_estimate_of_cpu_seconds_times_watts() -> None:
    seconds = iter([100.0, 100.0, 102.5])
    meter = cpu_time.open_meter(None, MeterOptions(cpu_clock=lambda: next(seconds), watts_per_core=4.0))
    start = meter.read()
    assert energy_between(start, meter.read(), "cpu-time") == {"cpu-time/cpu": 10.0}
    assert (meter.info.provenance, meter.info.scope, meter.info.domains) == ("estimated", "process", ("cpu",))
    assert meter.info.source == (
        "CPU time × 4 W per busy core (given by the user); blind to the power of int8 and AVX instructions, of memory "
        "and of idling"
    )


def test_follows_this_process_and_not_the_wall_clock() -> None:
    meter = cpu_time.open_meter(None, MeterOptions(watts_per_core=1.0))
    start, wall = meter.read(), time.perf_counter()
    time.sleep(0.2)
    idle = energy_between(start, meter.read(), "cpu-time")["cpu-time/cpu"]
    assert idle < 0.5 * (time.perf_counter() - wall)
    used = time.process_time()
    while time.process_time() - used < 0.05:
        pass
    assert energy_between(start, meter.read(), "cpu-time")["cpu-time/cpu"] >= 0.05


@pytest.mark.parametrize(
    ("model", "watts", "source"),
    [
        ("AMD EPYC 7763 64-Core Processor", 280 / 64, "TDP 280 W / 64 cores of EPYC 7763, AMD's specifications"),
        (
            "Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz",
            120 / 14,
            "TDP 120 W / 14 cores of E5-2680 v4, Intel's specifications",
        ),
        (
            "Intel(R) Xeon(R) Platinum 8480+",
            350 / 56,
            "TDP 350 W / 56 cores of Platinum 8480+, Intel's specifications",
        ),
    ],
)
def test_known_cpu(model: str, watts: float, source: str) -> None:
    assert cpu_time.watts_per_core(model) == (watts, source)


@pytest.mark.parametrize("model", ["AMD EPYC", "AMD EPYC 7763P", "12th Gen Intel(R) Core(TM) i9-12900KS", ""])
def test_trap_unknown_cpu_is_said_to_be_unknown(model: str) -> None:
    assert cpu_time.watts_per_core(model) == (10.0, f"unknown CPU {model}, assumed")


def test_trap_no_made_up_watts_for_memory() -> None:
    meter = cpu_time.open_meter(None, MeterOptions())
    assert set(meter.read().energy_j) == {"cpu"}


@pytest.mark.parametrize(("watts", "shown"), [(0.0, "0"), (-3.0, "-3"), (float("nan"), "nan"), (float("inf"), "inf")])
def test_impossible_watts(watts: float, shown: str) -> None:
    with pytest.raises(MeterError) as caught:
        cpu_time.open_meter(None, MeterOptions(watts_per_core=watts))
    assert str(caught.value) == f"cpu-time: {shown} W per core is not a positive number; use --watts-per-core 10"


def test_cpu_time_that_falls_is_an_error() -> None:
    seconds = iter([5.0, 4.0])
    meter = cpu_time.open_meter(None, MeterOptions(cpu_clock=lambda: next(seconds)))
    with pytest.raises(MeterError, match=r"^cpu-time: the CPU time fell: the process is another one now$"):
        meter.read()


def test_closed_meter_cannot_be_read() -> None:
    meter = cpu_time.open_meter(None, MeterOptions())
    meter.close()
    with pytest.raises(MeterError, match=r"^cpu-time: is closed$"):
        meter.read()


def test_probe_is_usable_everywhere() -> None:
    status = cpu_time.probe()
    assert status.usable
    assert status.info is not None
    assert status.info.update_period_s == 0.0

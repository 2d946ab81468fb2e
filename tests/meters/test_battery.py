from __future__ import annotations

from pathlib import Path

import pytest

from compressor.errors import MeterError
from compressor.meters import battery
from compressor.meters.base import energy_between


def supply(root: Path, name: str, **files: object) -> None:
    (root / name).mkdir(exist_ok=True)
    for file, value in files.items():
        (root / name / file).write_text(f"{value}\n")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_discharge_power_is_integrated(tmp_path: Path) -> None:
    supply(tmp_path, "AC", type="Mains", online=0)
    supply(tmp_path, "BAT0", type="Battery", status="Discharging", power_now=-12_000_000)
    supply(tmp_path, "BAT1", type="Battery", status="Discharging", current_now=500_000, voltage_now=8_000_000)
    supply(tmp_path, "hidpp_battery_0", type="Battery", status="Discharging", power_now=1)
    clock = Clock()
    meter = battery.open_battery(tmp_path, clock, thread=False)
    assert (meter.info.domains, meter.info.scope) == (("bat0", "bat1"), "machine")
    start = meter.read()
    for _ in range(10):
        clock.now += 1.0
        end = meter.read()
    assert energy_between(start, end, "battery") == pytest.approx({"battery/bat0": 120.0, "battery/bat1": 40.0})


def test_on_mains_it_is_unavailable(tmp_path: Path) -> None:
    supply(tmp_path, "AC", type="Mains", online=1)
    supply(tmp_path, "BAT0", type="Battery", status="Charging", power_now=12_000_000)
    with pytest.raises(MeterError) as caught:
        battery.open_battery(tmp_path)
    assert str(caught.value) == "battery: the machine runs on mains (AC); pull the plug and measure again"


@pytest.mark.parametrize(("status", "said"), [("Full", "full"), ("Not charging", "not charging"), ("", "unknown")])
def test_battery_that_does_not_discharge(tmp_path: Path, status: str, said: str) -> None:
    supply(tmp_path, "BAT0", type="Battery", status=status, power_now=0)
    with pytest.raises(MeterError) as caught:
        battery.open_battery(tmp_path)
    assert str(caught.value) == f"battery: no battery is discharging (BAT0 is {said}); pull the plug"


def test_plugged_in_during_the_run(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", type="Battery", status="Discharging", power_now=12_000_000)
    meter = battery.open_battery(tmp_path, Clock(), thread=False)
    supply(tmp_path, "BAT0", status="Charging")
    with pytest.raises(MeterError, match=r"^battery/bat0: is charging, not discharging$"):
        meter.read()


def test_battery_that_tells_no_power_or_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(MeterError) as caught:
        battery.open_battery(tmp_path / "none")
    assert str(caught.value) == f"battery: {tmp_path}/none: no battery here"
    supply(tmp_path, "BAT0", type="Battery", status="Discharging")
    with pytest.raises(MeterError, match=r"^battery/bat0: does not tell its power$"):
        battery.open_battery(tmp_path)
    supply(tmp_path, "BAT0", power_now=0)
    with pytest.raises(MeterError, match=r"^battery: the battery reads 0 W while it discharges$"):
        battery.open_battery(tmp_path)

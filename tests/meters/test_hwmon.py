from __future__ import annotations

from pathlib import Path

import pytest

from compressor.errors import MeterError
from compressor.meters import hwmon
from compressor.meters.base import energy_between


class Board:
    """A real folder tree of hwmon chips; energy counters follow a simulated clock."""

    def __init__(self, root: Path) -> None:
        self.root, self.now = root, 0.0
        self.energy: dict[Path, float] = {}

    def chip(self, folder: str, name: str, **files: object) -> None:
        (self.root / folder).mkdir(parents=True)
        (self.root / folder / "name").write_text(f"{name}\n")
        for file, value in files.items():
            self.write(folder, file, value)

    def write(self, folder: str, file: str, value: object) -> None:
        (self.root / folder / file).write_text(f"{value}\n")

    def counter(self, folder: str, file: str, watts: float) -> None:
        self.energy[self.root / folder / file] = watts
        self.tick()

    def tick(self) -> None:
        for file, watts in self.energy.items():
            file.write_text(f"{10**12 + int(self.now * watts * 1e6)}\n")

    def clock(self) -> float:
        self.now += 5e-4
        self.tick()
        return self.now

    def open(self):  # type: ignore[no-untyped-def]
        return hwmon.open_hwmon(self.root, self.clock, thread=False)


def test_jetson_rails_are_listed_and_only_the_input_is_the_total(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.chip(
        *("hwmon0", "ina3221"),
        **{"in1_label": "VDD_IN", "in1_input": 5000, "curr1_input": 2000},
        **{"in2_label": "VDD_CPU_GPU", "in2_input": 5000, "curr2_input": 900, "update_interval": 200},
    )
    meter = board.open()
    assert meter.info.domains == ("ina3221-vdd_in", "ina3221-vdd_cpu_gpu")
    assert meter.info.total == ("ina3221-vdd_in",)
    assert meter.info.update_period_s == 0.2
    assert meter.info.source == (
        "Linux hwmon sensors, power integrated; rails may contain each other, so the total is ina3221-vdd_in alone"
    )
    start = meter.read()
    board.now += 0.5
    energy = energy_between(start, meter.read(), "hwmon")
    assert energy == pytest.approx({"hwmon/ina3221-vdd_in": 5.0, "hwmon/ina3221-vdd_cpu_gpu": 2.25}, rel=0.01)
    assert meter.largest_gap_s == pytest.approx(0.5, rel=0.01)


def test_amd_energy_reads_sockets_and_leaves_out_the_cores_inside(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.chip("hwmon3", "amd_energy", energy1_label="Ecore000", energy2_label="Ecore001", energy3_label="Esocket0")
    for number, watts in (("1", 4.0), ("2", 5.0), ("3", 80.0)):
        board.counter("hwmon3", f"energy{number}_input", watts)
    meter = board.open()
    assert meter.info.domains == meter.info.total == ("amd_energy-esocket0",)
    assert meter.info.source == "Linux hwmon sensors; 2 cores of amd_energy left out: they are inside its sockets"
    start = meter.read()
    board.now += 10.0
    board.tick()
    assert energy_between(start, meter.read(), "hwmon") == pytest.approx({"hwmon/amd_energy-esocket0": 800.0}, rel=0.01)


def test_power_beside_its_own_energy_counter_is_read_once(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.chip("hwmon0", "ltc2947", power1_input=7_000_000)
    board.counter("hwmon0", "energy1_input", 7.0)
    assert board.open().info.domains == ("ltc2947-energy1",)


def test_resting_rail_and_battery_chip_are_left_out_with_a_note(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.chip("hwmon0", "BAT0", power1_input=9_000_000)
    board.chip("hwmon1", "rails", power1_input=0, power2_input=3_000_000, power2_label="CPU core")
    info = board.open().info
    assert info.domains == ("rails-cpu_core",)
    assert info.source == (
        "Linux hwmon sensors, power integrated; BAT0 left out: see the meter battery; "
        "rails-power1 reads 0 µW and is left out"
    )


def test_two_equal_chips_keep_their_own_domains(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.chip("hwmon0", "ina226", power1_input=1_000_000)
    board.chip("hwmon1", "ina226", power1_input=2_000_000)
    info = board.open().info
    assert info.domains == ("ina226-power1", "ina226-power1-hwmon1")
    assert info.total == ("ina226-power1-hwmon1",)


def test_sensor_that_fails_in_mid_run_is_named(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.chip("hwmon0", "ina226", power1_input=1_000_000)
    meter = board.open()
    board.write("hwmon0", "power1_input", "")
    with pytest.raises(MeterError) as caught:
        meter.read()
    assert str(caught.value) == f"hwmon: {tmp_path}/hwmon0/power1_input: holds no number"
    (tmp_path / "hwmon0/power1_input").unlink()
    with pytest.raises(MeterError, match=r"power1_input: cannot be read \(No such file or directory\)$"):
        meter.read()


def test_no_sensor(tmp_path: Path) -> None:
    with pytest.raises(MeterError) as caught:
        hwmon.open_hwmon(tmp_path)
    assert str(caught.value) == f"hwmon: {tmp_path}: no energy or power sensor here"


def test_only_resting_sensors(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.chip("hwmon0", "ina226", power1_input=0)
    board.chip("hwmon1", "chip")
    board.counter("hwmon1", "energy1_input", 0.0)
    with pytest.raises(MeterError) as caught:
        board.open()
    assert str(caught.value) == (
        "hwmon: ina226-power1 reads 0 µW and is left out; chip-energy1 stands still and is left out"
    )

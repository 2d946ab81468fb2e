from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from powercap_simulator import REPOSITORY, SimulatedMachine, SimulatedZone, desktop, run_in_namespace

from compressor.errors import MeterError
from compressor.meters import battery, hwmon, rapl, registry
from compressor.meters.base import MeterOptions

NAMES = ("rapl", "pyrapl", "nvml", "hwmon", "battery", "log", "exec", "replay", "cpu-time")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any sensor."""
    monkeypatch.setattr(rapl, "ROOT", tmp_path / "powercap")
    monkeypatch.setattr(hwmon, "ROOT", tmp_path / "hwmon")
    monkeypatch.setattr(battery, "ROOT", tmp_path / "power_supply")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    return tmp_path


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Entry points of the test's own, whose modules are files in the folder given."""
    points = [
        importlib.metadata.EntryPoint(name, value, registry.GROUP)
        for name, value in (
            ("watch", "outside_watch"),
            ("broken", "outside_broken"),
            ("failing", "outside_failing"),
            ("odd", "outside_watch:probe"),
            ("rapl", "outside_watch"),
        )
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points if group == registry.GROUP else [])
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "outside_broken.py").write_text("raise RuntimeError('no such board')\n")
    (tmp_path / "outside_failing.py").write_text("def probe():\n    raise OSError('the board is asleep')\n")
    (tmp_path / "outside_watch.py").write_text(
        "from compressor.meters.cpu_time import CpuTimeMeter, probe\n"
        "def open_meter(argument, options):\n"
        "    meter = CpuTimeMeter(options)\n"
        "    meter.argument = argument\n"
        "    return meter\n"
    )
    registry._outside.cache_clear()
    yield tmp_path
    registry._outside.cache_clear()
    for name in ("outside_watch", "outside_broken", "outside_failing"):
        sys.modules.pop(name, None)


def test_every_meter_says_whether_why_and_how_to_mend(bare: Path) -> None:
    statuses = {status.name: status for status in registry.statuses()}
    assert tuple(statuses) == registry.meter_names() == NAMES
    assert [name for name, status in statuses.items() if status.usable] == ["cpu-time"]
    assert all(status.why for status in statuses.values() if not status.usable)
    assert all(status.info is None for status in statuses.values() if not status.usable)
    assert statuses["nvml"].mend == "pip install nvidia-ml-py"
    assert statuses["log"].mend == "--meter log:power.csv"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "rapel",
            "there is no meter 'rapel'; did you mean 'rapl'? known: battery, cpu-time, exec, hwmon, log, nvml, pyrapl, "
            "rapl, replay",
        ),
        ("log", "log: needs an argument; --meter log:power.csv"),
        ("log:", "log:: the argument behind ':' is empty"),
        ("rapl:0", "rapl: takes no argument; use 'rapl' alone"),
        ("cpu-time:3", "cpu-time: takes no argument; use 'cpu-time' alone"),
    ],
)
def test_bad_spec(spec: str, message: str) -> None:
    with pytest.raises(MeterError) as caught:
        registry.open_meter(spec, MeterOptions())
    assert str(caught.value) == message


def test_status_of_an_unknown_meter() -> None:
    with pytest.raises(MeterError, match=r"there is no meter 'nvmll'; did you mean 'nvml'\?"):
        registry.status("nvmll")


@pytest.mark.parametrize("name", ["rapl", "pyrapl", "nvml", "hwmon", "battery"])
def test_named_meter_that_cannot_be_read_is_an_error_never_a_fall_back(bare: Path, name: str) -> None:
    with pytest.raises(MeterError):
        registry.open_meter(name, MeterOptions())


def test_ladder_ends_at_the_estimate(bare: Path) -> None:
    (meter,) = registry.open_ladder(MeterOptions(watts_per_core=3.0))
    assert (meter.info.name, meter.info.provenance) == ("cpu-time", "estimated")


def test_ladder_takes_all_that_measure_and_no_estimate_beside_them(bare: Path) -> None:
    (bare / "power_supply" / "BAT0").mkdir(parents=True)
    for file, value in {"type": "Battery", "status": "Discharging", "power_now": "9000000"}.items():
        (bare / "power_supply" / "BAT0" / file).write_text(value)
    (bare / "hwmon" / "hwmon0").mkdir(parents=True)
    (bare / "hwmon" / "hwmon0" / "power1_input").write_text("4000000")
    meters = registry.open_ladder(MeterOptions())
    for meter in meters:
        meter.close()
    assert [meter.info.name for meter in meters] == ["hwmon", "battery"]
    assert {meter.info.provenance for meter in meters} == {"measured"}


def test_ladder_on_a_counter_that_stands_still_says_why(bare: Path) -> None:
    SimulatedMachine(bare / "powercap", SimulatedZone("intel-rapl:0", "package-0", lambda t: 0.0))
    assert registry.status("rapl").why.endswith("the counter package-0 stands still")
    (meter,) = registry.open_ladder(MeterOptions())
    assert meter.info.name == "cpu-time"


def test_ladder_reads_the_same_counters_once() -> None:
    answer = run_in_namespace("""
        import json, threading, time
        from powercap_simulator import desktop, lay_over_sys
        from compressor.meters import registry
        from compressor.meters.base import MeterOptions

        machine = desktop(lay_over_sys())
        stop = threading.Event()
        def tick():
            while not stop.wait(0.0005):
                for folder, zone in machine.zones.items():
                    with machine.counter_file(folder).open("r+") as file:
                        file.write(f"{zone.counter_uj(time.monotonic()):<16d}")
        thread = threading.Thread(target=tick)
        thread.start()
        usable = [status.name for status in registry.statuses() if status.usable]
        meters = registry.open_ladder(MeterOptions())
        for meter in meters:
            meter.close()
        stop.set()
        thread.join()
        print(json.dumps({"usable": usable, "chosen": [meter.info.name for meter in meters]}))
    """)
    assert answer == {"usable": ["rapl", "pyrapl", "cpu-time"], "chosen": ["rapl"]}


def test_outside_package_registers_a_meter(outside: Path) -> None:
    assert registry.meter_names() == (*NAMES, "broken", "failing", "odd", "watch")
    assert registry.status("watch").usable
    meter = registry.open_meter("watch:a:b", MeterOptions())
    assert meter.argument == "a:b"  # type: ignore[attr-defined]


def test_outside_package_cannot_take_a_built_in_name(outside: Path) -> None:
    assert registry._module("rapl") is rapl


def test_broken_outside_package_is_named_and_harms_no_other(outside: Path) -> None:
    broken = registry.status("broken")
    assert (broken.usable, broken.why) == (False, "broken: its package fails to load: RuntimeError: no such board")
    assert registry.status("failing").why == "its probe fails: OSError: the board is asleep"
    assert registry.status("odd").why == "odd: the entry point 'outside_watch:probe' is not a module"
    assert registry.status("watch").usable


def test_statuses_import_nothing_heavy() -> None:
    code = (
        "import sys\nfrom compressor.meters import registry\nregistry.statuses()\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'pandas', 'numpy', 'scipy'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_real_rapl_of_this_machine() -> None:
    """The one test against real hardware; everything else runs on the simulator."""
    status = registry.status("rapl")
    if not status.usable:
        pytest.skip(f"not run: {status.why}")
    meter = registry.open_meter("rapl", MeterOptions())
    start, end = meter.read(), None
    for _ in range(200_000):
        end = meter.read()
        if end.time_s - start.time_s > 0.3:
            break
    meter.close()
    assert end is not None
    assert all(end.energy_j[domain] > start.energy_j[domain] for domain in meter.info.total)


def test_desktop_tree_is_what_the_kernel_shows(tmp_path: Path) -> None:
    """The simulator's own shape: flat links to nested zones, as under /sys/class/powercap."""
    machine = desktop(tmp_path)
    assert (tmp_path / "intel-rapl:0:1").resolve() == (tmp_path / "intel-rapl/intel-rapl:0/intel-rapl:0:1").resolve()
    assert machine.counter_file("intel-rapl:0").read_text() == "1000000\n"

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from compressor.errors import MeterError
from compressor.meters import metering, replay
from compressor.meters.metering import meter, process_cpu_clock
from compressor.results import MeterInfo, Reading


def spin(cpu_s: float) -> None:
    start = time.process_time()
    while time.process_time() - start < cpu_s:
        pass


def trace(path: Path, *energies: dict[str, float], period_s: float = 0.0, domains: tuple[str, ...] = ("cpu",)) -> str:
    info = MeterInfo("rapl", domains, "measured", "package", period_s, 1e-6, "a test", domains[:1])
    replay.write_trace(path, info, [Reading(float(i), energy) for i, energy in enumerate(energies)])
    return f"replay:{path}"


def test_around_anything() -> None:
    with meter("cpu-time", watts_per_core=20.0) as m:
        spin(0.05)
    assert m.result.joules == pytest.approx(20.0 * m.result.cpu_s, rel=0.2)
    assert m.result.joules == m.result.energy_j["cpu-time/cpu"] >= 1.0
    assert m.result.provenance == "estimated"
    assert m.result.meters[0].name == "cpu-time"
    assert m.result.elapsed_s >= 0.05
    assert m.result.watts == pytest.approx(m.result.joules / m.result.elapsed_s)


def test_what_is_best_here_needs_no_name() -> None:
    with meter() as m:
        spin(0.2)
    assert m.result.meters
    assert all(joules >= 0 for joules in m.result.energy_j.values())


def test_nested_domains_are_listed_and_not_added(tmp_path: Path) -> None:
    spec = trace(
        tmp_path / "t.json", {"package-0": 1.0, "core-0": 1.0}, {"package-0": 36.0, "core-0": 21.0},
        domains=("package-0", "core-0"),
    )  # fmt: skip
    with meter(spec) as m:
        pass
    assert m.result.energy_j == {"replay/package-0": 35.0, "replay/core-0": 20.0}
    assert m.result.counted == ("replay/package-0",)
    assert m.result.joules == 35.0
    assert m.result.provenance == "replayed"


def test_no_result_before_the_end_or_after_an_exception() -> None:
    m = meter("cpu-time")
    with pytest.raises(MeterError) as caught:
        _ = m.result
    assert str(caught.value) == "meter: there is no result before the window has ended well"
    with pytest.raises(ZeroDivisionError), m:
        _ = 1 / 0
    with pytest.raises(MeterError, match="no result before the window has ended well"):
        _ = m.result


def test_used_within_itself() -> None:
    m = meter("cpu-time")
    with m, pytest.raises(MeterError, match="is in use already; take another one for a window within a window"), m:
        pass


def test_window_in_which_the_counter_did_not_move_is_no_zero(tmp_path: Path) -> None:
    m = meter(trace(tmp_path / "t.json", {"cpu": 5.0}, {"cpu": 5.0}, period_s=0.05))
    with (
        pytest.raises(
            MeterError, match=r"^replay: cpu did not move in .* s, which is no measurement; measure at least 5"
        ),
        m,
    ):
        pass


def test_window_too_short_for_its_meter_is_noted(tmp_path: Path) -> None:
    with meter(trace(tmp_path / "t.json", {"cpu": 5.0}, {"cpu": 9.0}, period_s=10.0)) as m:
        pass
    (note,) = m.result.notes
    assert note.endswith("s are only 0 of its update periods; 1e+03 s would be sound")


def test_error_at_the_end_is_the_meters(tmp_path: Path) -> None:
    m = meter(trace(tmp_path / "t.json", {"cpu": 5.0}))
    with pytest.raises(MeterError, match="the trace ends after 1 readings"), m:
        pass
    with pytest.raises(MeterError, match="no result"):
        _ = m.result


def test_unknown_and_unreadable_meters_fail_on_entry(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="there is no meter 'volts'"), meter("volts"):
        pytest.fail("the window must not open")
    with pytest.raises(MeterError, match="cannot be read"), meter(f"log:{tmp_path}/none.csv"):
        pytest.fail("the window must not open")


def test_clock_of_another_process_counts_its_threads_and_not_its_sleep() -> None:
    code = (
        "import threading, time, sys, hashlib\n"
        "data = bytes(1 << 20)\n"
        "def work():\n"
        "    end = time.thread_time() + 0.1\n"
        "    while time.thread_time() < end: hashlib.sha256(data)\n"
        "threads = [threading.Thread(target=work) for _ in range(2)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print(time.process_time(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        used = float(process.stdout.readline())
        clock = process_cpu_clock(process.pid)
        first = clock()
        time.sleep(0.2)
        assert used >= 0.2
        assert first == pytest.approx(used, abs=0.05)
        assert clock() - first < 0.02  # it waits
    with pytest.raises(MeterError) as caught:
        clock()
    assert str(caught.value) == f"cpu-time: process {process.pid} is gone"
    with pytest.raises(MeterError, match=rf"^cpu-time: process {process.pid} is gone$"):
        process_cpu_clock(process.pid)


def test_process_that_died_and_was_not_waited_for_is_gone_and_not_idle() -> None:
    with subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        clock = process_cpu_clock(process.pid)
        process.kill()
        with pytest.raises(MeterError, match=r"is gone$"):
            for _ in range(500):  # its end takes a moment, and uses up CPU time of its own
                clock()
                time.sleep(0.01)


def test_clock_elsewhere_than_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering.sys, "platform", "darwin")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert process_cpu_clock(process.pid)() >= 0.0
        process.communicate(b"\n")
    with pytest.raises(MeterError, match=r"is gone$"):
        process_cpu_clock(process.pid)

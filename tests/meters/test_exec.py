from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path

import pytest

from compressor.errors import MeterError
from compressor.meters import exec as exec_meter
from compressor.meters.base import energy_between


@pytest.mark.parametrize(
    ("output", "value", "counts"),
    [
        ("12.5\n", 12.5, False),
        ("12.5 W", 12.5, False),
        ("power: 850mW now", 0.85, False),
        ("3e5 uW", 0.3, False),
        ("700 µW", 7e-4, False),
        ("700 μW", 7e-4, False),
        ("0.2 kW", 200.0, False),
        (
            "    Instantaneous power reading:                   220 Watts\n    Minimum during sampling period: 3 Watts",
            220,
            False,
        ),
        ("4200 J", 4200, True),
        ("energy 1.5 kWh", 5.4e6, True),
        ("17 joules", 17, True),
    ],
)
def test_what_is_understood(output: str, value: float, counts: bool) -> None:
    printed = exec_meter.parse(output, "x")
    assert (printed.value, printed.counts) == (pytest.approx(value), counts)


@pytest.mark.parametrize(
    ("output", "step"),
    [("12.5", 0.1), ("40 W", 1.0), ("3e5 uW", 0.1), ("1.500 kWh", 3600.0), ("1.5e-1 kJ", 10.0)],
)
def test_last_digit_is_the_step(output: str, step: float) -> None:
    assert exec_meter.parse(output, "x").step == pytest.approx(step)


@pytest.mark.parametrize(
    "output", ["", "ok", "12 V", "3 MW", "5 apples", "1 2 3", "v1.5W", "1e999 W", "1e999", "12,5 W", "1,234.5 W"]
)
def test_what_is_not_guessed_at(output: str) -> None:
    with pytest.raises(MeterError) as caught:
        exec_meter.parse(output, "exec:x")
    assert str(caught.value) == (
        f"exec:x: printed {output!r}, not a power or energy; let it print a number alone (watts), or one with its unit "
        "such as '12.5 W' or '4200 J'"
    )


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_watts_are_integrated(tmp_path: Path) -> None:
    (tmp_path / "watts").write_text("40 W\n")
    clock = Clock()
    meter = exec_meter.open_exec(f"cat {tmp_path}/watts", clock, thread=False)
    assert (meter.info.scope, meter.info.domains) == ("machine", ("machine",))
    assert meter.info.resolution_j == pytest.approx(1.0 * meter.info.update_period_s)
    assert meter.info.source == f"command 'cat {tmp_path}/watts', watts, integrated"
    start = meter.read()
    clock.now = 1.0
    (tmp_path / "watts").write_text("60 W\n")
    assert energy_between(start, meter.read(), "exec") == pytest.approx({"exec/machine": 50.0})


def test_joules_are_subtracted(tmp_path: Path) -> None:
    (tmp_path / "joules").write_text("4200.5 J\n")
    clock = Clock()
    meter = exec_meter.open_exec(f"cat {tmp_path}/joules", clock)
    assert meter.info.resolution_j == pytest.approx(0.1)
    start = meter.read()
    clock.now = 10.0
    (tmp_path / "joules").write_text("4300 J\n")
    assert energy_between(start, meter.read(), "exec") == pytest.approx({"exec/machine": 99.5})
    (tmp_path / "joules").write_text("10 W\n")
    with pytest.raises(MeterError, match="printed watts and joules in turn"):
        meter.read()
    meter.close()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("false", "failed with exit status 1"),
        ("sh -c 'echo no device >&2; exit 7'", "failed with exit status 7 (no device)"),
        ("sh -c 'kill -9 $$'", "failed with signal 9"),
        ("/nowhere/meter", "cannot be run (No such file or directory)"),
        ("sh -c 'unclosed", "cannot be split into words (No closing quotation)"),
    ],
)
def test_command_that_fails(command: str, message: str) -> None:
    with pytest.raises(MeterError) as caught:
        exec_meter.open_exec(command)
    assert str(caught.value) == f"exec:{command}: {message}"


def test_command_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exec_meter, "TIMEOUT_S", 0.5)
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "child.wait()"
    )
    command = f"{sys.executable} -c {shlex.quote(script)}"
    with pytest.raises(MeterError) as caught:
        exec_meter.run(command)
    assert caught.value.what == "gave no answer within 0.5 s"
    child = int((tmp_path / "pid").read_text())
    for _ in range(200):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            break  # ended, and not yet collected by init
        time.sleep(0.02)
    else:
        pytest.fail("the command's child lives on")


def test_command_whose_child_left_its_session_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child keeps the command's output open until long after the command was ended."""
    monkeypatch.setattr(exec_meter, "TIMEOUT_S", 0.3)
    script = "import subprocess; subprocess.Popen(['sleep', '5'], start_new_session=True)"
    started = time.monotonic()
    with pytest.raises(MeterError, match=r"gave no answer within 0\.3 s$"):
        exec_meter.run(f"{sys.executable} -c {shlex.quote(script)}")
    assert time.monotonic() - started < 4.5


def test_command_that_dies_in_mid_run(tmp_path: Path) -> None:
    (tmp_path / "watts").write_text("40\n")
    clock = Clock()
    meter = exec_meter.open_exec(f"cat {tmp_path}/watts", clock, thread=False)
    meter.read()
    (tmp_path / "watts").unlink()
    with pytest.raises(MeterError, match=r"failed with exit status 1 \(cat: .*No such file or directory\)$"):
        meter.read()

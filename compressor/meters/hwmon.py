"""Sensors under /sys/class/hwmon: ARM boards, Jetson's INA3221, AMD's amd_energy.

Source: Linux, Documentation/hwmon/sysfs-interface.rst (energyN_input in µJ, powerN_input in µW) and ina3221.rst
(inN_input in mV and currN_input in mA, from which power is computed).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from compressor.errors import MeterError
from compressor.meters.base import MeterOptions
from compressor.meters.counter import Counter, CounterMeter, Ticks, watch_ticks
from compressor.meters.sampling import CombinedMeter, SampledMeter
from compressor.results import MeterInfo, MeterStatus

ROOT = Path("/sys/class/hwmon")

_PERIOD_S = 0.1  # where the chip does not tell its update interval
_PROBE_S = 0.05
_BOUND_W = 5000.0


@dataclass(frozen=True)
class Rail:
    """One sensor.

    Attributes:
        domain: ``chip-label``.
        files: The file to read, or voltage (mV) and current (mA), whose product is µW.
        is_energy: Whether it counts µJ; else it shows µW.
        period_s: How often it is renewed.
    """

    domain: str
    files: tuple[Path, ...]
    is_energy: bool
    period_s: float

    def read(self) -> int:
        """The raw value in µJ or µW.

        Raises:
            MeterError: It cannot be read, or holds no number.
        """
        value = 1
        for file in self.files:
            try:
                value *= int(file.read_text())
            except PermissionError as e:
                raise MeterError(
                    "no permission to read it", where=f"hwmon: {file}", mend=f"sudo chmod a+r {file}"
                ) from e
            except OSError as e:
                raise MeterError(f"cannot be read ({e.strerror})", where=f"hwmon: {file}") from e
            except ValueError as e:
                raise MeterError("holds no number", where=f"hwmon: {file}") from e
        return value


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def find_rails(root: Path | None = None) -> tuple[tuple[Rail, ...], tuple[str, ...]]:
    """All energy and power sensors, readable or not.

    Args:
        root: The hwmon folder; ``None`` for the system's.

    Returns:
        The sensors, and a note for each that is left out.
    """
    root = ROOT if root is None else root
    rails: dict[str, Rail] = {}
    notes: list[str] = []
    for chip in sorted(root.glob("hwmon*"), key=lambda path: (len(path.name), path.name)):
        name = _text(chip / "name") or chip.name
        if name.upper().startswith("BAT"):
            notes.append(f"{name} left out: see the meter battery")
            continue
        interval = _text(chip / "update_interval")
        period_s = int(interval) * 1e-3 if interval.isdigit() and int(interval) else _PERIOD_S
        cores = 0
        for kind, number, files in _channels(chip, name):
            label = _text(chip / f"{kind}{number}_label") or (f"rail{number}" if kind == "in" else f"{kind}{number}")
            if label.startswith("Ecore"):  # amd_energy: every core is inside its socket's Esocket
                cores += 1
                continue
            domain = re.sub(r"[^\w.+-]+", "_", f"{name}-{label}").lower()
            domain = domain if domain not in rails else f"{domain}-{chip.name}"
            rails[domain] = Rail(domain, files, kind == "energy", period_s)
        if cores:
            notes.append(f"{cores} cores of {name} left out: they are inside its sockets")
    return tuple(rails.values()), tuple(notes)


def _channels(chip: Path, name: str) -> list[tuple[str, str, tuple[Path, ...]]]:
    """Kind, number and files of each sensor; power that an energy counter covers is left out."""
    found: list[tuple[str, str, tuple[Path, ...]]] = []
    counted: set[str] = set()
    for kind in ("energy", "power"):
        for file in sorted(chip.glob(f"{kind}*_input"), key=lambda path: (len(path.name), path.name)):
            number = file.name.removeprefix(kind).removesuffix("_input")
            if number.isdigit() and number not in counted:
                found.append((kind, number, (file,)))
                if kind == "energy":
                    counted.add(number)
    if name.startswith("ina3221"):
        for number in ("1", "2", "3"):
            files = (chip / f"in{number}_input", chip / f"curr{number}_input")
            if all(file.exists() for file in files):
                found.append(("in", number, files))
    return found


def open_hwmon(
    root: Path | None = None, clock: Callable[[], float] = time.monotonic, thread: bool = True
) -> CombinedMeter:
    """Open every sensor that can be read and reads something.

    Args:
        root: The hwmon folder; ``None`` for the system's.
        clock: Monotonic seconds.
        thread: Whether power is sampled between reads.

    Raises:
        MeterError: There is none that can be read.
    """
    found, notes = find_rails(root)
    if not found:
        raise MeterError("no energy or power sensor here", where=f"hwmon: {ROOT if root is None else root}")
    counted: list[Rail] = []
    sampled: dict[str, tuple[Rail, int]] = {}
    refused: MeterError | None = None
    ticks: Ticks | None = None
    for rail in found:
        try:
            seen = watch_ticks(rail.read, _PROBE_S, clock, 10 if ticks is None else 1) if rail.is_energy else None
            value = rail.read()
        except MeterError as e:
            refused = refused or e
            notes += (f"{rail.domain} cannot be read",)
            continue
        if rail.is_energy and seen is not None:
            ticks = ticks or seen
            counted.append(rail)
        elif not rail.is_energy and value > 0:
            sampled[rail.domain] = (rail, value)
        else:
            notes += (f"{rail.domain} {'stands still' if rail.is_energy else f'reads {value} µW'} and is left out",)
    if not counted and not sampled:
        raise refused or MeterError("; ".join(notes), where="hwmon")
    rails = [rail for rail, _ in sampled.values()]
    total = _total([rail.domain for rail in counted], {domain: value for domain, (_, value) in sampled.items()})
    domains = (*(rail.domain for rail in counted), *sampled)
    if len(total) < len(domains):
        notes += (f"rails may contain each other, so the total is {' + '.join(total)} alone",)
    period = max([ticks.period_s if ticks else 0.0, *(rail.period_s for rail in rails)])
    info = MeterInfo(
        name="hwmon",
        domains=domains,
        provenance="measured",
        scope="board",
        update_period_s=period,
        resolution_j=ticks.step * 1e-6 if ticks else 1e-6 * period,
        source="; ".join(("Linux hwmon sensors" + (", power integrated" if rails else ""), *notes)),
        total=total,
    )
    parts: list[CounterMeter | SampledMeter] = []
    if counted:
        counters = [Counter(rail.domain, 1e-6, None, _BOUND_W) for rail in counted]
        parts.append(CounterMeter(info, counters, lambda: _raw(counted), clock=clock))
    if rails:
        parts.append(SampledMeter(info, lambda: _watts(rails), period / 2, clock=clock, thread=thread))
    return CombinedMeter(info, tuple(parts))


def _total(counted: list[str], sampled_uw: Mapping[str, int]) -> tuple[str, ...]:
    """What may be added up: all sockets; else one rail, since nothing tells which rail feeds which.

    The rail at the board's input if one is named so, else the largest: no other can contain it.
    """
    if sockets := tuple(domain for domain in counted if "esocket" in domain):
        return sockets
    inputs = [domain for domain in (*counted, *sampled_uw) if domain.endswith(("_in", "total"))]
    if inputs:
        return (inputs[0],)
    return (max(sampled_uw, key=lambda domain: sampled_uw[domain]),) if sampled_uw else (counted[0],)


def _raw(rails: list[Rail]) -> Mapping[str, int]:
    return {rail.domain: rail.read() for rail in rails}


def _watts(rails: list[Rail]) -> Mapping[str, float]:
    return {rail.domain: rail.read() * 1e-6 for rail in rails}


def probe() -> MeterStatus:
    """Whether there are sensors that can be read. Raises :class:`MeterError` where not."""
    meter = open_hwmon(thread=False)
    meter.close()
    return MeterStatus("hwmon", True, meter.info)


def open_meter(argument: str | None, options: MeterOptions) -> CombinedMeter:
    """Open the meter; see :func:`open_hwmon`."""
    return open_hwmon()

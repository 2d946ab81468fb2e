"""The battery of a laptop or board while it discharges: the whole machine, screen and all.

Source: Linux, Documentation/ABI/testing/sysfs-class-power (power_now in µW, current_now in µA, voltage_now in µV).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from compressor.errors import MeterError
from compressor.meters.base import MeterOptions
from compressor.meters.sampling import SampledMeter
from compressor.results import MeterInfo, MeterStatus

ROOT = Path("/sys/class/power_supply")

# Embedded controllers renew the figure about once a second or slower; the file does not tell.
_PERIOD_S = 1.0


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _discharging(root: Path) -> list[Path]:
    """The batteries that power the machine.

    Raises:
        MeterError: There is none.
    """
    supplies = sorted(root.glob("*")) if root.is_dir() else []
    batteries = [s for s in supplies if s.name.upper().startswith("BAT") and _text(s / "type") == "Battery"]
    if not batteries:
        raise MeterError("no battery here", where=f"battery: {root}")
    mains = next((s for s in supplies if _text(s / "type") in ("Mains", "USB") and _text(s / "online") == "1"), None)
    if mains is not None:
        raise MeterError(
            f"the machine runs on mains ({mains.name})", where="battery", mend="pull the plug and measure again"
        )
    empty = [b for b in batteries if _text(b / "status") == "Discharging"]
    if not empty:
        states = ", ".join(f"{b.name} is {_text(b / 'status').lower() or 'unknown'}" for b in batteries)
        raise MeterError(f"no battery is discharging ({states})", where="battery", mend="pull the plug")
    return empty


def _watts(battery: Path) -> float:
    """Power drawn from a battery, in W.

    Raises:
        MeterError: It is not discharging any more, or does not tell its power.
    """
    if (status := _text(battery / "status")) != "Discharging":
        raise MeterError(f"is {status.lower() or 'unknown'}, not discharging", where=f"battery/{battery.name.lower()}")
    try:
        if (battery / "power_now").exists():
            # some drivers give a discharge as a negative number
            return abs(int((battery / "power_now").read_text())) * 1e-6
        current, voltage = (int((battery / f"{name}_now").read_text()) for name in ("current", "voltage"))
    except (OSError, ValueError) as e:
        raise MeterError("does not tell its power", where=f"battery/{battery.name.lower()}") from e
    return abs(current) * 1e-6 * voltage * 1e-6


def open_battery(
    root: Path | None = None, clock: Callable[[], float] = time.monotonic, thread: bool = True
) -> SampledMeter:
    """Open every battery that discharges.

    Args:
        root: The power-supply folder; ``None`` for the system's.
        clock: Monotonic seconds.
        thread: Whether power is sampled between reads.

    Raises:
        MeterError: There is no battery, or the machine runs on mains.
    """
    batteries = _discharging(ROOT if root is None else root)

    def watts() -> Mapping[str, float]:
        return {battery.name.lower(): _watts(battery) for battery in batteries}

    if not any(watts().values()):
        raise MeterError("the battery reads 0 W while it discharges", where="battery")
    info = MeterInfo(
        name="battery",
        domains=tuple(battery.name.lower() for battery in batteries),
        provenance="measured",
        scope="machine",
        update_period_s=_PERIOD_S,
        resolution_j=1e-6 * _PERIOD_S,
        source="Linux power supply, discharge power integrated; the update period is typical, not probed",
    )
    return SampledMeter(info, watts, _PERIOD_S / 2, clock=clock, thread=thread)


def probe() -> MeterStatus:
    """Whether a battery discharges. Raises :class:`MeterError` where not."""
    meter = open_battery(thread=False)
    meter.close()
    return MeterStatus("battery", True, meter.info)


def open_meter(argument: str | None, options: MeterOptions) -> SampledMeter:
    """Open the meter; see :func:`open_battery`."""
    return open_battery()

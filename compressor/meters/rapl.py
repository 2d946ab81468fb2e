"""RAPL through Linux powercap: the energy counters of Intel's and AMD's processors.

Source: Linux, Documentation/power/powercap/powercap.rst and drivers/powercap/intel_rapl_common.c (AMD's counters
appear under the same name). Intel's counter has 32 bits of about 61 µJ, 262 143 J in all, and moves every 1 ms or so.
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
from compressor.results import MeterInfo, MeterStatus

ROOT = Path("/sys/class/powercap")

# The udev rule that makes the counters readable for good, for one group only: whoever can read them can learn about
# the data that others compute on (CVE-2020-8694), which is why Linux gives them to root alone since 5.10.
MEND = (
    'sudo groupadd -f rapl && sudo usermod -aG rapl "$USER" &&\n'
    'echo \'ACTION=="add", SUBSYSTEM=="powercap", KERNEL=="intel-rapl*:*", '
    'RUN+="/bin/chgrp rapl /sys%p/energy_uj", RUN+="/bin/chmod g+r /sys%p/energy_uj"\' '
    "| sudo tee /etc/udev/rules.d/70-rapl.rules &&\n"
    "sudo udevadm control --reload && sudo udevadm trigger --action=add --subsystem-match=powercap\n"
    "# then log in again"
)

_PROBE_S = 0.05
_PERIOD_S = 0.001
# Power no package exceeds: twice its largest limit, since short peaks may pass it, and at least this much.
_LEAST_BOUND_W = 1000.0


@dataclass(frozen=True)
class Zone:
    """A powercap zone with an energy counter.

    Attributes:
        domain: Our name for it, e.g. ``package-0``, ``package-0-die-1``, ``dram-0``, ``psys``.
        path: Its folder.
        range_uj: Where the counter starts again.
        max_power_w: Power that it cannot exceed.
    """

    domain: str
    path: Path
    range_uj: int
    max_power_w: float

    def read_uj(self) -> int:
        """The raw counter in µJ.

        Raises:
            MeterError: It cannot be read, or holds no number.
        """
        file = self.path / "energy_uj"
        try:
            text = file.read_text()
        except PermissionError as e:
            raise MeterError(
                "only root may read it (Linux 5.10 and later, CVE-2020-8694)", where=f"rapl: {file}", mend=MEND
            ) from e
        except OSError as e:
            raise MeterError(
                f"the counter {self.domain} vanished ({e.strerror}): are its CPUs offline?",
                where=f"rapl: {file}",
            ) from e
        try:
            return int(text)
        except ValueError as e:
            raise MeterError(f"holds {text.strip()[:40]!r} instead of a number", where=f"rapl: {file}") from e


def find_zones(root: Path | None = None) -> tuple[tuple[Zone, ...], tuple[str, ...]]:
    """All RAPL zones of this machine, readable or not.

    Args:
        root: The powercap folder; ``None`` for the system's.

    Returns:
        The zones, and a note for each that is left out because it shows another's counter a second time.

    Raises:
        MeterError: There are none.
    """
    root = ROOT if root is None else root
    # intel-rapl:0, intel-rapl:0:1 through the MSRs; intel-rapl-mmio:0 the same package through another door
    folders = sorted(
        (path for path in root.glob("intel-rapl*:*") if re.fullmatch(r"intel-rapl(-\w+)?:\d+(:\d+)?", path.name)),
        key=lambda path: (path.name.partition(":")[0] != "intel-rapl", [int(n) for n in path.name.split(":")[1:]]),
    )
    names = {path.name: _text(path / "name") or "" for path in folders}
    zones: dict[str, Zone] = {}
    notes = []
    for path in folders:
        control, *numbers = path.name.split(":")
        domain = names[path.name]
        if len(numbers) == 2:  # a part of a package bears its package's number: dram-0, core-0-die-1
            domain += names.get(f"{control}:{numbers[0]}", "").removeprefix("package")
        text = _text(path / "max_energy_range_uj") or ""
        range_uj = int(text) if text.isdigit() else 0
        if not domain or range_uj == 0:
            notes.append(f"{path.name} left out: no name or no range")
        elif domain in zones:
            notes.append(f"{path.name} left out: {domain} again")
        else:
            zones[domain] = Zone(domain, path, range_uj, _bound_w(path))
    if not zones:
        raise MeterError(
            "no RAPL counter here (no Intel or AMD processor, or a virtual machine or container hides it)",
            where=f"rapl: {root}",
            mend="on bare metal try: sudo modprobe intel_rapl_msr",
        )
    return tuple(zones.values()), tuple(notes)


def _text(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None


def _bound_w(zone: Path) -> float:
    limits = [_text(file) for file in zone.glob("constraint_*_*_uw")]
    watts = [int(text) / 1e6 for text in limits if text and text.isdigit()]
    return max(_LEAST_BOUND_W, 2 * max(watts, default=0.0))


def open_rapl(
    root: Path | None = None, clock: Callable[[], float] = time.monotonic, guard: bool = True
) -> CounterMeter:
    """Open every RAPL counter that can be read.

    Args:
        root: The powercap folder; ``None`` for the system's.
        clock: Monotonic seconds.
        guard: Whether a thread keeps watch over wraps.

    Raises:
        MeterError: There is none, none may be read, or one stands still.
    """
    found, notes = find_zones(root)
    zones: list[Zone] = []
    refused: MeterError | None = None
    for zone in found:
        try:
            zone.read_uj()
        except MeterError as e:
            refused = refused or e
            notes += (f"{zone.domain} cannot be read",)
        else:
            zones.append(zone)
    if refused is not None and not zones:
        raise refused
    ticks: Ticks | None = None
    moving: list[Zone] = []
    for zone in zones:
        # the first tells the period; of the others only whether they move
        seen = watch_ticks(zone.read_uj, _PROBE_S, clock, enough=25 if ticks is None else 1)
        if seen is not None:
            ticks = ticks or seen
            moving.append(zone)
        elif zone.domain.startswith("package"):
            raise MeterError(f"the counter {zone.domain} stands still", where=f"rapl: {zone.path}")
        else:
            notes += (f"{zone.domain} stands still and is left out",)
    if ticks is None:
        raise MeterError(f"the counter {zones[0].domain} stands still", where=f"rapl: {zones[0].path}")
    domains = tuple(zone.domain for zone in moving)
    info = MeterInfo(
        name="rapl",
        domains=domains,
        provenance="measured",
        scope="package",
        update_period_s=ticks.period_s,
        resolution_j=ticks.step * 1e-6,
        source="; ".join(("Linux powercap energy counters", *notes)),
        total=total_of(domains),
    )
    return CounterMeter(info, counters_of(moving), lambda: read_zones(moving), clock=clock, guard=guard)


def total_of(domains: tuple[str, ...]) -> tuple[str, ...]:
    """The domains that add up: packages and their DRAM, which is outside them; psys only where no package is read."""
    return tuple(d for d in domains if d.startswith(("package", "dram"))) or domains[:1]


def counters_of(zones: list[Zone]) -> list[Counter]:
    """The zones as counters; an integrated GPU (uncore) may be switched off and then rests."""
    return [Counter(z.domain, 1e-6, z.range_uj, z.max_power_w, z.domain.startswith("uncore")) for z in zones]


def read_zones(zones: list[Zone]) -> Mapping[str, int]:
    """Raw counters in µJ by domain."""
    return {zone.domain: zone.read_uj() for zone in zones}


def probe() -> MeterStatus:
    """Whether RAPL can be read here. Raises :class:`MeterError` where not."""
    meter = open_rapl(guard=False)
    meter.close()
    return MeterStatus("rapl", True, meter.info)


def open_meter(argument: str | None, options: MeterOptions) -> CounterMeter:
    """Open the meter; see :func:`open_rapl`."""
    return open_rapl()

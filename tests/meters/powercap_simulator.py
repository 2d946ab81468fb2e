"""A simulated machine: a real folder tree of powercap counters that tick with a simulated clock.

It stands in for hardware that the test machine lacks. Files are real and are read by the code under test as it reads
/sys; only time is simulated, so that a wrap after hours takes no time and every run gives the same figures.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

RANGE_UJ = 262_143_328_850  # Intel: 32 bits of 61.035 µJ
REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534


@dataclass
class SimulatedZone:
    """A counter: folder name, zone name, its energy in J since the start as a function of time."""

    folder: str
    name: str
    energy_j: Callable[[float], float]
    start_uj: int = 1_000_000
    range_uj: int = RANGE_UJ
    limit_w: float | None = None

    def counter_uj(self, seconds: float) -> int:
        return (self.start_uj + int(self.energy_j(seconds) * 1e6)) % self.range_uj


def constant(watts: float) -> Callable[[float], float]:
    return lambda seconds: watts * seconds


class SimulatedMachine:
    """Counters under ``root`` that move every ``tick_s`` of simulated time."""

    def __init__(self, root: Path, *zones: SimulatedZone, tick_s: float = 0.001) -> None:
        self.root, self.tick_s, self.now = root, tick_s, 0.0
        self.zones = {zone.folder: zone for zone in zones}
        self._written: dict[str, int] = {}
        root.mkdir(parents=True, exist_ok=True)
        for zone in zones:
            folder = self.folder(zone)
            folder.mkdir(parents=True)
            (root / zone.folder).symlink_to(folder, target_is_directory=True)
            (folder / "name").write_text(f"{zone.name}\n")
            (folder / "max_energy_range_uj").write_text(f"{zone.range_uj}\n")
            if zone.limit_w is not None:
                (folder / "constraint_0_power_limit_uw").write_text(f"{int(zone.limit_w * 1e6)}\n")
        self.write()

    def folder(self, zone: SimulatedZone) -> Path:
        control, *numbers = zone.folder.split(":")
        nested = [":".join([control, *numbers[: i + 1]]) for i in range(len(numbers))]
        return self.root.joinpath(control, *nested)

    def counter_file(self, folder: str) -> Path:
        return self.folder(self.zones[folder]) / "energy_uj"

    def write(self) -> None:
        ticked = int(self.now / self.tick_s + 1e-9) * self.tick_s
        for zone in self.zones.values():
            value = zone.counter_uj(ticked)
            if self._written.get(zone.folder) != value:
                # in place, as sysfs does: whoever holds the file open sees the new value
                with (self.folder(zone) / "energy_uj").open("w") as file:
                    file.write(f"{value}\n")
                self._written[zone.folder] = value

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.write()

    def clock(self) -> float:
        """Monotonic seconds; reading the clock takes a while, so that polling comes to an end."""
        before = int(self.now / self.tick_s)
        self.now += 5e-5
        if int(self.now / self.tick_s) != before:
            self.write()
        return self.now


def desktop(root: Path, **changes: object) -> SimulatedMachine:
    """One package of 35 W with cores inside it, and 4 W of DRAM beside."""
    package = SimulatedZone("intel-rapl:0", "package-0", constant(35.0), **changes)  # type: ignore[arg-type]
    core = SimulatedZone("intel-rapl:0:0", "core", constant(20.0))
    dram = SimulatedZone("intel-rapl:0:1", "dram", constant(4.0))
    return SimulatedMachine(root, package, core, dram)


def why_no_namespace() -> str:
    """Why a private mount namespace cannot be had here; empty if it can."""
    if sys.platform != "linux":
        return "mount namespaces are Linux's"
    if os.geteuid() != 0:
        return "laying a tree over /sys/class needs root"
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return "unshare and mount are not installed"
    trial = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/sys/class"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if trial.returncode == 0 else f"no private mount namespace ({trial.stderr.strip()})"


def run_in_namespace(code: str) -> Mapping[str, object]:
    """Run code as root in a mount namespace of its own, with warnings as errors; it prints one JSON object."""
    if why := why_no_namespace():
        pytest.skip(f"not run: {why}")
    run = subprocess.run(
        ["unshare", "--mount", sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(Path(__file__).parent)])},
    )
    assert run.returncode == 0, run.stderr
    assert not run.stderr, run.stderr
    answer: Mapping[str, object] = json.loads(run.stdout)
    return answer


def lay_over_sys(sockets: int = 1, cpus: int = 4, offline: tuple[int, ...] = ()) -> Path:
    """Inside :func:`run_in_namespace`: an empty powercap tree and a CPU topology over /sys; gives the tree's root."""
    for place in ("/sys/class", "/sys/devices/system/cpu"):
        subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    system = Path("/sys/devices/system/cpu")
    (system / "present").write_text(f"0-{cpus - 1}\n")
    for cpu in range(cpus):
        topology = system / f"cpu{cpu}" / "topology"
        topology.parent.mkdir()
        if cpu not in offline:  # the kernel takes an offline CPU's topology away
            topology.mkdir()
            (topology / "physical_package_id").write_text(f"{cpu * sockets // cpus}\n")
    return Path("/sys/class/powercap")

"""The machine that a measurement ran on, and how busy others kept it meanwhile."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from compressor.cpuinfo import cpu_flags, cpu_model
from compressor.errors import MeasurementError
from compressor.results import Environment

SYS = Path("/sys")

# The instruction sets that decide how fast low precision is: Linux's flag to the name used here.
_FEATURES = {
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx_vnni_int8": "avx_vnni_int8",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_tile": "amx_tile",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "neon": "neon",
    "asimd": "neon",  # 64-bit ARM calls NEON so
    "asimddp": "asimddp",
    "asimdhp": "asimdhp",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}

_DISTRIBUTIONS = (
    "compressor",
    "numpy",
    "torch",
    "torchao",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "openvino",
    "transformers",
    "optimum",
    "psutil",
    "pyRAPL",
    "nvidia-ml-py",
)

# Sensor drivers that read the CPU; acpitz and the like read the board.
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal", "scpi_sensors")


def cpu_features() -> tuple[str, ...]:
    """Instruction sets of this CPU that matter to low precision, sorted; empty where the system does not tell."""
    return tuple(sorted({_FEATURES[flag] for flag in cpu_flags() if flag in _FEATURES}))


def temperature_c() -> float | None:
    """The hottest CPU sensor in °C, or ``None`` where there is none that can be read."""
    sensors = getattr(psutil, "sensors_temperatures", None)
    if sensors is None:  # neither Linux nor FreeBSD
        return None
    try:
        found = sensors()
    except OSError:
        return None
    readings = [entry.current for name in _CPU_SENSORS for entry in found.get(name, []) if entry.current]
    return max(readings, default=None)


@dataclass(frozen=True)
class Others:
    """What went on beside the processes that are measured.

    Attributes:
        load: Share of the machine's cores that other processes kept busy, 0..1.
        pinned_load: The same of the cores that the measured processes are pinned to; 0 where none are named.
        throttled: Whether one of these cores, or their package, slowed down for heat.
    """

    load: float
    pinned_load: float = 0.0
    throttled: bool = False

    def why_unsound(self, limit: float) -> str:
        """Why what was measured meanwhile does not count; empty if it does.

        Args:
            limit: Share of the cores that others may keep busy.
        """
        if self.throttled:
            return "the processor slowed down for heat"
        if self.load > limit:
            return f"other processes kept {self.load:.0%} of the cores busy"
        if self.pinned_load > limit:
            return f"other processes kept the arms' own cores busy for {self.pinned_load:.0%} of the time"
        return ""


class LoadMonitor:
    """What other processes did between two moments, and whether the processor got too hot.

    System busy time, steal included and idle and iowait not, less the CPU time of the processes that are measured. The
    system counts in ticks of 10 ms per core, so a window of 1 s on two cores is known to about 1 %. Each call takes
    well under 2 ms.

    Args:
        cores: Numbers of the cores that the measured processes are pinned to. On many cores one that is shared with
            another process halves an arm's speed and is a small share of the machine.
    """

    def __init__(self, cores: Sequence[int] = ()) -> None:
        self._cores = tuple(cores)
        self._processes: tuple[psutil.Process, ...] = ()
        self._time = self._busy = self._pinned = self._own = 0.0
        self._throttles = 0

    def start(self, pids: Iterable[int] = ()) -> None:
        """Begin a window.

        Args:
            pids: The processes that are not foreign; their threads count, their children do not.

        Raises:
            MeasurementError: One of them is gone.
        """
        try:
            self._processes = tuple(psutil.Process(pid) for pid in pids)
        except psutil.NoSuchProcess as e:
            raise MeasurementError(f"process {e.pid} is gone", where="foreign load") from e
        self._throttles, self._time = _throttles(self._cores), time.monotonic()
        self._busy, self._pinned, self._own = _busy_s(), _busy_s_of(self._cores), self._own_s()

    def stop(self) -> Others:
        """End the window.

        Returns:
            What went on; no load for a window without length.

        Raises:
            MeasurementError: A process that was measured ended meanwhile.
        """
        elapsed, own = time.monotonic() - self._time, self._own_s() - self._own

        def share(busy_s: float, cores: int) -> float:
            return min(1.0, max(0.0, (busy_s - own) / (elapsed * cores))) if elapsed > 0 and cores else 0.0

        return Others(
            share(_busy_s() - self._busy, os.cpu_count() or 1),
            share(_busy_s_of(self._cores) - self._pinned, len(self._cores)),
            _throttles(self._cores) > self._throttles,
        )

    def _own_s(self) -> float:
        try:
            times = [process.cpu_times() for process in self._processes]
        except (psutil.NoSuchProcess, psutil.AccessDenied) as e:
            raise MeasurementError(f"the CPU time of process {e.pid} cannot be read", where="foreign load") from e
        return sum(t.user + t.system for t in times)


def _busy_s() -> float:
    t = psutil.cpu_times()
    # guest time is part of user time on Linux
    return sum(getattr(t, part, 0.0) for part in ("user", "nice", "system", "irq", "softirq", "steal"))


def _busy_s_of(cores: Sequence[int], stat: Path = Path("/proc/stat")) -> float:
    """The same of some cores, by their numbers: psutil's list per core leaves out those that are offline."""
    if not cores:
        return 0.0
    try:
        lines = (line.split() for line in stat.read_text().splitlines() if line.startswith("cpu"))
        ticks = {head: [int(each) for each in counts] for head, *counts in lines}
    except (OSError, ValueError):
        return 0.0
    # user, nice, system, idle, iowait, irq, softirq, steal
    busy = (sum(counts[:3]) + sum(counts[5:8]) for core in cores if (counts := ticks.get(f"cpu{core}")))
    return sum(busy) / os.sysconf("SC_CLK_TCK")


def _throttles(cores: Sequence[int]) -> int:
    """How often some cores and their packages have slowed down for heat; 0 where the system does not count it.

    Source: Linux, drivers/thermal/intel/therm_throt.c. Only Intel's processors count.
    """
    folders = (SYS / f"devices/system/cpu/cpu{core}/thermal_throttle" for core in cores)
    counts = (_first_line(folder / f"{part}_throttle_count") for folder in folders for part in ("core", "package"))
    return sum(int(count) for count in counts if count and count.isdigit())


def describe_environment(foreign_window_s: float = 0.5) -> Environment:
    """Describe this machine.

    Args:
        foreign_window_s: For how long to watch what other processes do, in s.
    """
    load = LoadMonitor()
    load.start([os.getpid()])
    time.sleep(foreign_window_s)
    return Environment(
        cpu=cpu_model(),
        cpu_features=cpu_features(),
        cores=_usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        gpus=_gpus(),
        os=f"{platform.system()} {platform.release()}",
        governor=_first_line(SYS / "devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        turbo=_turbo(),
        virtual=_hypervisor(),
        temperature_c=temperature_c(),
        foreign_load=load.stop().load,
        versions=_versions(),
    )


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").partition("\n")[0].strip("\0 ") or None
    except OSError:
        return None


def _turbo() -> bool | None:
    no_turbo = _first_line(SYS / "devices/system/cpu/intel_pstate/no_turbo")
    if no_turbo is not None:
        return no_turbo == "0"
    boost = _first_line(SYS / "devices/system/cpu/cpufreq/boost")
    return None if boost is None else boost == "1"


def _hypervisor() -> str | None:
    """Name of the hypervisor from what it shows its guest; ``None`` on bare metal or where nothing tells."""
    if platform.machine() in ("x86_64", "AMD64") and "hypervisor" not in cpu_flags():
        return None
    clocks = _first_line(SYS / "devices/system/clocksource/clocksource0/available_clocksource") or ""
    product = " ".join(_first_line(SYS / "class/dmi/id" / name) or "" for name in ("sys_vendor", "product_name"))
    kind = _first_line(SYS / "hypervisor/type") or ""
    evidence = f"{clocks} {product} {kind}".lower()
    for sign, name in (
        ("kvm", "KVM"),
        ("hyperv", "Hyper-V"),
        ("vmware", "VMware"),
        ("virtualbox", "VirtualBox"),
        ("xen", "Xen"),
        ("qemu", "QEMU"),
    ):
        if sign in evidence:
            return name
    return "unnamed" if "hypervisor" in cpu_flags() else None


def _gpus(proc: Path = Path("/proc/driver/nvidia/gpus")) -> tuple[str, ...]:
    """Names of the GPUs that the NVIDIA driver has taken."""
    try:
        cards = [card.read_text(errors="replace") for card in sorted(proc.glob("*/information"))]
    except OSError:
        return ()
    lines = (line.partition(":") for card in cards for line in card.splitlines())
    return tuple(value.strip() for key, _, value in lines if key.strip() == "Model")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

"""The machine that a measurement ran on, and how busy others kept it meanwhile."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterable
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


class LoadMonitor:
    """Share of the machine's cores that other processes kept busy between two moments.

    System busy time, steal included and idle and iowait not, less the CPU time of the processes that are measured. The
    system counts in ticks of 10 ms per core, so a window of 1 s on two cores is known to about 1 %. Each call takes
    well under 2 ms.
    """

    def __init__(self) -> None:
        self._processes: tuple[psutil.Process, ...] = ()
        self._time = self._busy = self._own = 0.0

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
        self._time, self._busy, self._own = time.monotonic(), _busy_s(), self._own_s()

    def stop(self) -> float:
        """End the window.

        Returns:
            The share of all cores that others kept busy, 0..1; 0 for a window without length.

        Raises:
            MeasurementError: A process that was measured ended meanwhile.
        """
        elapsed = time.monotonic() - self._time
        foreign = (_busy_s() - self._busy) - (self._own_s() - self._own)
        return min(1.0, max(0.0, foreign / (elapsed * (os.cpu_count() or 1)))) if elapsed > 0 else 0.0

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
        foreign_load=load.stop(),
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

"""What the system says about its CPU: the model's name and its instruction sets."""

from __future__ import annotations

import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

PROC = Path("/proc/cpuinfo")

# ARM Linux gives numbers for the maker and the design (MIDR_EL1; Linux: arch/arm64/include/asm/cputype.h).
_ARM_PARTS = {
    ("0x41", "0xd03"): "ARM Cortex-A53",
    ("0x41", "0xd08"): "ARM Cortex-A72",
    ("0x41", "0xd0b"): "ARM Cortex-A76",
    ("0x41", "0xd0c"): "ARM Neoverse-N1",
    ("0x41", "0xd40"): "ARM Neoverse-V1",
    ("0x41", "0xd49"): "ARM Neoverse-N2",
    ("0x41", "0xd4f"): "ARM Neoverse-V2",
}


def _fields(text: str) -> dict[str, str]:
    """Key to value over all processors of /proc/cpuinfo; the first of each key wins."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            fields.setdefault(key.strip(), value.strip())
    return fields


@cache
def _proc(path: Path) -> dict[str, str]:
    try:
        return _fields(path.read_text(errors="replace"))
    except OSError:
        return {}


def _sysctl(name: str) -> str:
    try:
        run = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip()


def cpu_model() -> str:
    """Name of the CPU's model as the system gives it, e.g. ``AMD EPYC 7763 64-Core Processor``."""
    fields = _proc(PROC)
    if name := fields.get("model name"):
        return name
    if part := _ARM_PARTS.get((fields.get("CPU implementer", ""), fields.get("CPU part", ""))):
        return part
    if sys.platform == "darwin" and (name := _sysctl("machdep.cpu.brand_string")):
        return name
    return platform.processor() or platform.machine() or "unknown"


def cpu_flags() -> frozenset[str]:
    """Feature flags of the CPU in Linux's spelling; empty where the system does not tell."""
    fields = _proc(PROC)
    return frozenset((fields.get("flags") or fields.get("Features") or "").split())

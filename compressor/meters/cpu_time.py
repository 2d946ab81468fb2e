"""An estimate where nothing can be measured: CPU time × watts per busy core.

It follows CPU time and nothing else: an instruction that does more work per second at more watts (AVX-512, int8 dot
products) costs the same here, and so does a core that runs faster. Memory and idle power are not in it.
"""

from __future__ import annotations

import math
import re
import time

from compressor.cpuinfo import cpu_model
from compressor.errors import MeterError
from compressor.meters.base import MeterOptions
from compressor.results import MeterInfo, MeterStatus, Reading

UNKNOWN_CPU_W = 10.0

# Model: (thermal design power in W, cores), from Intel's product specifications (ARK; "processor base power" from the
# 12th generation on) and AMD's product specification pages. ARM server makers publish no such figure per model.
_TDP = {
    "i7-8700K": (95, 6),
    "i9-9900K": (95, 8),
    "i7-10700K": (125, 8),
    "i9-10900K": (125, 10),
    "i9-12900K": (125, 16),
    "i7-13700K": (125, 16),
    "i9-13900K": (125, 24),
    "E5-2680 v4": (120, 14),
    "E5-2690 v4": (135, 14),
    "Gold 6148": (150, 20),
    "Gold 6248": (150, 20),
    "Platinum 8180": (205, 28),
    "Platinum 8280": (205, 28),
    "Platinum 8380": (270, 40),
    "Platinum 8480+": (350, 56),
    "Platinum 8490H": (350, 60),
    "Ryzen 5 3600": (65, 6),
    "Ryzen 7 3700X": (65, 8),
    "Ryzen 9 3950X": (105, 16),
    "Ryzen 5 5600X": (65, 6),
    "Ryzen 7 5800X": (105, 8),
    "Ryzen 9 5950X": (105, 16),
    "Ryzen 7 7700X": (105, 8),
    "Ryzen 9 7950X": (170, 16),
    "EPYC 7302": (155, 16),
    "EPYC 7502": (180, 32),
    "EPYC 7742": (225, 64),
    "EPYC 7713": (225, 64),
    "EPYC 7763": (280, 64),
    "EPYC 9354": (280, 32),
    "EPYC 9554": (360, 64),
    "EPYC 9654": (360, 96),
}


def watts_per_core(model: str) -> tuple[float, str]:
    """Watts of one busy core, and where the figure comes from.

    Args:
        model: The CPU's name as the system gives it.

    Returns:
        TDP / cores of a known model, else :data:`UNKNOWN_CPU_W`.
    """
    for name, (tdp, cores) in _TDP.items():
        if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w+])", model):
            maker = "AMD" if name.startswith(("EPYC", "Ryzen")) else "Intel"
            return tdp / cores, f"TDP {tdp} W / {cores} cores of {name}, {maker}'s specifications"
    return UNKNOWN_CPU_W, f"unknown CPU {model}, assumed"


class CpuTimeMeter:
    """Joules estimated from the CPU time of one process; see :class:`compressor.meters.base.Meter`.

    Args:
        options: The process's clock and the user's watts.

    Raises:
        MeterError: The watts are no positive number.
    """

    def __init__(self, options: MeterOptions) -> None:
        if options.watts_per_core is None:
            self._watts, origin = watts_per_core(cpu_model())
        else:
            self._watts, origin = options.watts_per_core, "given by the user"
        if not (math.isfinite(self._watts) and self._watts > 0):
            raise MeterError(
                f"{self._watts:g} W per core is not a positive number", where="cpu-time", mend="use --watts-per-core 10"
            )
        self._clock = options.cpu_clock or time.process_time
        self._last = self._start = self._clock()
        self._closed = False
        self.info = MeterInfo(
            name="cpu-time",
            domains=("cpu",),
            provenance="estimated",
            scope="process",
            update_period_s=0.0,
            resolution_j=self._watts * time.get_clock_info("process_time").resolution,
            source=f"CPU time × {self._watts:.3g} W per busy core ({origin}); blind to the power of int8 and AVX "
            "instructions, of memory and of idling",
        )

    def read(self) -> Reading:
        """Estimate now.

        Raises:
            MeterError: The process is gone, or its CPU time fell.
        """
        if self._closed:
            raise MeterError("is closed", where="cpu-time")
        cpu_s = self._clock()
        if cpu_s < self._last:
            raise MeterError("the CPU time fell: the process is another one now", where="cpu-time")
        self._last = cpu_s
        return Reading(time.monotonic(), {"cpu": (cpu_s - self._start) * self._watts})

    def close(self) -> None:
        """Reading afterwards is an error."""
        self._closed = True


def probe() -> MeterStatus:
    """CPU time can be read everywhere."""
    return MeterStatus("cpu-time", True, CpuTimeMeter(MeterOptions()).info)


def open_meter(argument: str | None, options: MeterOptions) -> CpuTimeMeter:
    """Open the meter."""
    return CpuTimeMeter(options)

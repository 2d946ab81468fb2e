"""What a stage cost: time and joules of this process while it ran."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from compressor.errors import MeterError
from compressor.meters.base import MeterOptions, energy_between
from compressor.meters.registry import open_ladder, open_meter


class Costs:
    """Time and joules of this process in a ``with`` block.

    Args:
        meters: Meters by name; empty for the ladder.
        watts_per_core: For ``cpu-time``.

    Attributes:
        elapsed_s: Wall-clock time.
        cpu_s: CPU time of this process.
        energy_j: Joules per ``meter/domain``; a domain that could not be read is absent.

    Raises:
        MeterError: On entry, if a named meter cannot be read here.
    """

    def __init__(self, meters: Sequence[str], watts_per_core: float | None) -> None:
        self._names, self._options = meters, MeterOptions(watts_per_core=watts_per_core)
        self.elapsed_s = self.cpu_s = 0.0
        self.energy_j: dict[str, float] = {}

    def __enter__(self) -> Costs:
        with ExitStack() as stack:
            names, options = self._names, self._options
            self._meters = [open_meter(n, options) for n in names] if names else list(open_ladder(options))
            for meter in self._meters:
                stack.callback(meter.close)
            self._before = [meter.read() for meter in self._meters]
            self._stack = stack.pop_all()
        self._started, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *failure: object) -> None:
        self.elapsed_s = time.perf_counter() - self._started
        self.cpu_s = time.process_time() - self._cpu
        with self._stack:
            if failure[0] is not None:
                return
            for meter, before in zip(self._meters, self._before, strict=True):
                try:
                    self.energy_j.update(energy_between(before, meter.read(), meter.info.name))
                except MeterError:
                    continue  # absent: the report then says that the stage's joules are unknown

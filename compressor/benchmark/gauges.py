"""The meters of a run, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from compressor.benchmark.process import WorkerProcess
from compressor.meters.base import Meter, MeterOptions
from compressor.meters.metering import process_cpu_clock
from compressor.meters.registry import open_ladder, open_meter

Progress = Callable[[float, float, str], None]
"""Called with the seconds done, the seconds expected and what is going on."""


class Clock:
    """Seconds done and expected, told to whoever shows a progress bar."""

    def __init__(self, total_s: float, tell: Progress | None) -> None:
        self.total_s, self.done_s, self.tell = total_s, 0.0, tell

    def now(self, text: str) -> None:
        """Tell what is going on."""
        if self.tell:
            self.tell(self.done_s, self.total_s, text)

    def advance(self, seconds: float) -> None:
        """So many of the expected seconds are done."""
        self.done_s = min(self.done_s + seconds, self.total_s)


class Gauges:
    """The meters of a run: those that see a process are opened for each worker, the others once for all."""

    def __init__(self, names: Sequence[str], watts_per_core: float | None) -> None:
        self.names, self.watts_per_core = tuple(names), watts_per_core
        self.shared: dict[str, Meter] = {}
        self.slowest, self.slowest_s = "", 0.0

    def of(self, worker: WorkerProcess, stack: ExitStack) -> tuple[Meter, ...]:
        """The meters that see a worker; the stack closes those that are its own."""
        options = MeterOptions(cpu_clock=process_cpu_clock(worker.pid), watts_per_core=self.watts_per_core)
        if not self.names:  # the ladder is climbed once, then it is names like the user's
            opened = list(open_ladder(options))
            self.names = tuple(meter.info.name for meter in opened)
        else:
            opened = [self.shared.get(name) or open_meter(name, options) for name in self.names]
        for name, meter in zip(self.names, opened, strict=True):
            if meter.info.update_period_s > self.slowest_s:
                self.slowest, self.slowest_s = meter.info.name, meter.info.update_period_s
            if meter.info.scope == "process":
                stack.callback(meter.close)
            else:
                self.shared[name] = meter
        return tuple(opened)

    def close(self) -> None:
        """Close those that were opened once for all."""
        for meter in self.shared.values():
            meter.close()

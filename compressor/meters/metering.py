"""Meters around anything: ``with meter("rapl") as m: …; m.result.joules``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from compressor.errors import MeterError
from compressor.meters.base import PERIODS_PER_WINDOW, Meter, MeterOptions, disjoint, energy_between, gap_note
from compressor.meters.registry import open_ladder, open_meter
from compressor.results import MeterInfo, Provenance, Reading


@dataclass(frozen=True)
class Metered:
    """What one window used.

    Attributes:
        energy_j: Joules per domain, gross, keyed ``meter/domain``. A domain that could not be read is absent.
        provenance: Where the joules come from.
        meters: What was read.
        elapsed_s: Wall-clock time of the window.
        cpu_s: CPU time of the process measured, all threads.
        notes: What to know before believing the figures.
    """

    energy_j: Mapping[str, float]
    provenance: Provenance
    meters: tuple[MeterInfo, ...]
    elapsed_s: float
    cpu_s: float
    notes: tuple[str, ...]

    @property
    def joules(self) -> float:
        """The sum over ``counted``."""
        return sum(self.energy_j[key] for key in self.counted)

    @property
    def counted(self) -> tuple[str, ...]:
        """The domains that do not contain each other and so add up; the others are listed beside them."""
        return disjoint(self.meters)

    @property
    def watts(self) -> float:
        """Mean power, ``joules / elapsed_s``."""
        return self.joules / self.elapsed_s


class Metering:
    """A window under meters; see :func:`meter`."""

    def __init__(self, spec: str | None, options: MeterOptions) -> None:
        self._spec, self._options = spec, options
        self._cpu_clock = options.cpu_clock or time.process_time
        self._meters: tuple[Meter, ...] = ()
        self._start: tuple[Reading, ...] = ()
        self._cpu_s = self._time_s = 0.0
        self._result: Metered | None = None

    @property
    def result(self) -> Metered:
        """What the window used.

        Raises:
            MeterError: The window has not ended, or ended in an exception.
        """
        if self._result is None:
            raise MeterError("there is no result before the window has ended well", where="meter")
        return self._result

    def __enter__(self) -> Metering:
        if self._meters:
            raise MeterError("is in use already", where="meter", mend="take another one for a window within a window")
        self._result = None
        self._meters = open_ladder(self._options) if self._spec is None else (open_meter(self._spec, self._options),)
        try:
            self._start = tuple(m.read() for m in self._meters)
            self._cpu_s, self._time_s = self._cpu_clock(), time.perf_counter()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        elapsed_s = time.perf_counter() - self._time_s
        try:
            if error is None:  # a window that was broken off measures nothing in particular
                cpu_s = self._cpu_clock() - self._cpu_s
                self._result = self._judge(tuple(m.read() for m in self._meters), elapsed_s, cpu_s)
        finally:
            self._close()

    def _close(self) -> None:
        meters, self._meters = self._meters, ()
        for m in meters:
            m.close()

    def _judge(self, end: tuple[Reading, ...], elapsed_s: float, cpu_s: float) -> Metered:
        energy: dict[str, float] = {}
        notes = []
        for m, before, after in zip(self._meters, self._start, end, strict=True):
            info, joules = m.info, energy_between(before, after, m.info.name)
            sound_s = PERIODS_PER_WINDOW * info.update_period_s
            for domain in info.total or info.domains:
                if info.provenance != "estimated" and joules.get(f"{info.name}/{domain}") == 0:
                    raise MeterError(
                        f"{domain} did not move in {elapsed_s:.3g} s, which is no measurement",
                        where=info.name,
                        mend=f"measure at least {max(1.0, sound_s):g} s",
                    )
            if elapsed_s < sound_s:
                notes.append(
                    f"{info.name}: {elapsed_s:.3g} s are only {elapsed_s / info.update_period_s:.0f} of its update "
                    f"periods; {sound_s:.3g} s would be sound"
                )
            if note := gap_note(m):
                notes.append(note)
            energy.update(joules)
        infos = tuple(m.info for m in self._meters)
        return Metered(energy, infos[0].provenance, infos, elapsed_s, cpu_s, tuple(notes))


def meter(
    spec: str | None = None,
    *,
    watts_per_core: float | None = None,
    cpu_clock: Callable[[], float] | None = None,
) -> Metering:
    """Measure what a block of code uses.

    On an accelerator the caller has to synchronise the device before either edge of the window: work that is still
    queued at its end is not in it.

    Args:
        spec: A meter such as ``rapl`` or ``log:power.csv``; ``None`` for what is best on this machine.
        watts_per_core: For the estimate of ``cpu-time``.
        cpu_clock: CPU seconds of another process, see :func:`process_cpu_clock`; ``None`` for this process.

    Returns:
        A context manager whose ``result`` is there once the block has ended.

    Raises:
        MeterError: On entry, if the meter cannot be read; on exit, if it gave no usable reading.
    """
    return Metering(spec, MeterOptions(cpu_clock, watts_per_core))


def process_cpu_clock(pid: int) -> Callable[[], float]:
    """A clock of another process's CPU seconds, all its threads included and its children not.

    On Linux it is the kernel's own clock of that process in ns; elsewhere it ticks as psutil does, about every 10 ms.
    Source: Linux, include/linux/posix-timers.h (``MAKE_PROCESS_CPUCLOCK``: the inverted pid above three bits of kind).

    Args:
        pid: The process.

    Returns:
        The clock; it raises :class:`MeterError` once the process is gone.

    Raises:
        MeterError: The process is gone already.
    """
    clock = _linux_cpu_clock(pid) if sys.platform == "linux" else _psutil_cpu_clock(pid)
    clock()
    return clock


def _gone(pid: int) -> MeterError:
    return MeterError(f"process {pid} is gone", where="cpu-time")


def _linux_cpu_clock(pid: int) -> Callable[[], float]:
    kernel_clock = ((~pid) << 3) | 2
    stat = Path(f"/proc/{pid}/stat")
    last_ns = -1

    def clock() -> float:
        nonlocal last_ns
        try:
            now_ns = time.clock_gettime_ns(kernel_clock)
            # A process that died but was not yet waited for keeps its clock, which would read as perfect idleness.
            dead = now_ns == last_ns and stat.read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError as e:
            raise _gone(pid) from e
        if dead:
            raise _gone(pid)
        last_ns = now_ns
        return now_ns * 1e-9

    return clock


def _psutil_cpu_clock(pid: int) -> Callable[[], float]:
    import psutil

    try:
        process = psutil.Process(pid)
    except psutil.Error as e:
        raise _gone(pid) from e

    def clock() -> float:
        try:
            times = process.cpu_times()
        except psutil.Error as e:
            raise _gone(pid) from e
        return times.user + times.system

    return clock

"""Live watts of every meter that can be read here: what ``compress meters --watch`` shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from compressor.errors import MeterError
from compressor.meters.base import Meter, MeterOptions, energy_between
from compressor.meters.registry import open_meter, statuses
from compressor.results import Provenance, Reading


@dataclass(frozen=True)
class Power:
    """One domain's mean power since the line before.

    Attributes:
        domain: ``meter/domain``; ``meter`` alone where it could not be read.
        watts: Mean power; ``None`` where there is none to tell.
        provenance: Where the joules come from.
        why: Why there is none; empty otherwise.
    """

    domain: str
    watts: float | None
    provenance: Provenance
    why: str = ""


def machine_cpu_clock() -> float:
    """CPU seconds of all processes together: what the estimate is made from while it watches the machine."""
    import psutil

    times = psutil.cpu_times()
    return sum(getattr(times, part, 0.0) for part in ("user", "nice", "system", "irq", "softirq"))


def open_usable(names: Sequence[str] | None = None) -> tuple[Meter, ...]:
    """Open every meter that can be read here and needs no argument.

    Args:
        names: Only these; ``None`` for all.

    Returns:
        At least the estimate, which here is of all processes together.
    """
    options = MeterOptions(cpu_clock=machine_cpu_clock)
    chosen = [status.name for status in statuses() if status.usable] if names is None else names
    with ExitStack() as stack:
        meters = []
        for name in chosen:
            meters.append(open_meter(name, options))
            stack.callback(meters[-1].close)
        stack.pop_all()
    return tuple(meters)


def watch(
    meters: Sequence[Meter], period_s: float = 1.0, sleep: Callable[[float], None] = time.sleep
) -> Iterator[tuple[Power, ...]]:
    """Mean power over each period, for ever.

    Args:
        meters: Open meters; they are not closed.
        period_s: Time between two lines.
        sleep: Waits.

    Yields:
        One entry per domain. A meter that fails says why and is tried again.
    """
    before = {id(meter): _read(meter) for meter in meters}
    while True:
        sleep(period_s)
        found: list[Power] = []
        for meter in meters:
            start, end = before[id(meter)], _read(meter)
            before[id(meter)] = end
            found += _powers(meter, start, end)
        yield tuple(found)


def _read(meter: Meter) -> Reading | MeterError:
    try:
        return meter.read()
    except MeterError as error:
        return error


def _powers(meter: Meter, start: Reading | MeterError, end: Reading | MeterError) -> list[Power]:
    name, provenance = meter.info.name, meter.info.provenance
    failed = next((x for x in (end, start) if isinstance(x, MeterError)), None)
    if failed is not None or isinstance(start, MeterError) or isinstance(end, MeterError):
        return [Power(name, None, provenance, str(failed))]
    elapsed_s = end.time_s - start.time_s
    try:
        joules: Mapping[str, float] = energy_between(start, end, name)
    except MeterError as error:
        return [Power(name, None, provenance, str(error))]
    if elapsed_s <= 0:
        return [Power(name, None, provenance, "no time passed")]
    # A counter that did not move tells nothing about the power; an estimate may well be of nothing.
    return [
        Power(key, None, provenance, "no new value yet")
        if energy == 0 and provenance != "estimated"
        else Power(key, energy / elapsed_s, provenance)
        for key, energy in joules.items()
    ]

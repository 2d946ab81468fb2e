"""The meters of a run, what they counted, and how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from compressor.benchmark.process import WorkerProcess
from compressor.meters.base import Meter, MeterOptions, energy_between, gap_note
from compressor.meters.metering import process_cpu_clock
from compressor.meters.registry import open_ladder, open_meter
from compressor.results import Measurement, MeterInfo, Reading

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
            opened = open_ladder(options)
            self.names = tuple(meter.info.name for meter in opened)
            for name, meter in zip(self.names, opened, strict=True):
                self._keep(name, meter, stack)
            return opened
        return tuple(self.shared.get(name) or self._keep(name, open_meter(name, options), stack) for name in self.names)

    def _keep(self, name: str, meter: Meter, stack: ExitStack) -> Meter:
        """See that a meter is closed, with its worker or at the end, whatever happens to the next one."""
        if meter.info.update_period_s > self.slowest_s:
            self.slowest, self.slowest_s = meter.info.name, meter.info.update_period_s
        if meter.info.scope == "process":
            stack.callback(meter.close)
        else:
            self.shared[name] = meter
        return meter

    def gap_notes(self) -> list[str]:
        """What to know of those that sample power."""
        return [note for meter in self.shared.values() if (note := gap_note(meter))]

    def close(self) -> None:
        """Close those that were opened once for all."""
        for meter in self.shared.values():
            meter.close()


# --- what lies between two readings of some meters -----------------------------------------------------------------

LEAST_STEPS = 5
"""A window counts at least so many of a meter's smallest steps: fewer tell the same joules of different arms."""


def counted_between(
    meters: Sequence[Meter], before: Sequence[Reading], after: Sequence[Reading]
) -> tuple[dict[str, float], dict[str, float]]:
    """Joules per ``meter/domain``, and the share of the time, 0..1, in which each GPU that tells it ran anything.

    Raises:
        MeterError: See :func:`~compressor.meters.base.energy_between`.
    """
    energy: dict[str, float] = {}
    busy: dict[str, float] = {}
    for meter, start, end in zip(meters, before, after, strict=True):
        name, elapsed_s = meter.info.name, end.time_s - start.time_s
        energy.update(energy_between(start, end, name))
        for domain in start.busy_s.keys() & end.busy_s.keys() if elapsed_s > 0 else ():
            busy[f"{name}/{domain}"] = min(1.0, (end.busy_s[domain] - start.busy_s[domain]) / elapsed_s)
    return energy, busy


def watts_between(meters: Sequence[Meter], before: Sequence[Reading], after: Sequence[Reading]) -> dict[str, float]:
    """Mean power per ``meter/domain``, by the meters' own time: reading a slow one takes a while itself.

    Raises:
        MeterError: See :func:`~compressor.meters.base.energy_between`.
    """
    found: dict[str, float] = {}
    for meter, start, end in zip(meters, before, after, strict=True):
        elapsed_s = end.time_s - start.time_s
        for key, joules in energy_between(start, end, meter.info.name).items():
            # An estimate may well be of nothing; a counter that did not move tells nothing.
            if elapsed_s > 0 and (joules > 0 or meter.info.provenance == "estimated"):
                found[key] = joules / elapsed_s
    return found


def why_unsound(info: MeterInfo, energy: Mapping[str, float]) -> str:
    """Why what a meter counted in a window is no measurement; empty if it is one."""
    counted = {domain: energy.get(f"{info.name}/{domain}") for domain in info.total or info.domains}
    if still := [domain for domain, joules in counted.items() if joules == 0]:
        return f"{info.name}: {still[0]} stood still for a whole window"
    joules = sum(each for each in counted.values() if each is not None)
    if joules < LEAST_STEPS * info.resolution_j and info.provenance != "estimated":
        return f"{info.name}: a window holds {joules:.3g} J, and it counts in steps of {info.resolution_j:.3g} J"
    return ""


OTHERS_LIMIT = 0.25
"""CPU time of others, as a share of the arms', from which on it is told that a meter counted both."""


def load_beside(measurements: Sequence[Measurement]) -> list[str]:
    """A warning where others' load, though too small to discard a block, is a part of the joules to reckon with."""
    infos = (info for one in measurements for info in one.meters)
    meters = sorted({info.name for info in infos if info.scope in ("package", "board", "machine")})
    trials = [trial for one in measurements for trial in one.trials]
    seconds, own_s = sum(trial.elapsed_s for trial in trials), sum(trial.cpu_s for trial in trials)
    others_s = (os.cpu_count() or 1) * sum(trial.foreign_load * trial.elapsed_s for trial in trials)
    if not meters or others_s <= OTHERS_LIMIT * own_s:
        return []
    return [
        f"Other processes kept {others_s / seconds:.2g} cores busy beside the {own_s / seconds:.2g} of the arms: "
        f"{' and '.join(meters)} counted theirs too, which draws the ratios of energy toward those of time."
    ]

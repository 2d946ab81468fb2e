"""Hardware energy counters that wrap: how to turn their raw values into joules that never fall and never lie.

A counter is read as ``(e1 - e0) mod range``, which is right only if it wrapped at most once between two reads. So every
counter comes with the power that its part of the machine cannot exceed; a thread of its own reads often enough that no
wrap is missed, and a step that this power cannot explain is an error instead of joules.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from compressor.errors import MeterError
from compressor.results import MeterInfo, Reading

# A counter may move this much later than the joules it counts were spent.
_SLACK_S = 0.05
_SLACK_PERIODS = 2
_STILL_PERIODS = 100
_STILL_S = 0.1
_GUARDS_PER_WRAP = 4
_LONGEST_GUARD_S = 60.0


@dataclass(frozen=True)
class Counter:
    """One counter of joules.

    Attributes:
        domain: What it counts.
        unit_j: Joules per raw unit.
        range: Raw value at which it starts again from 0; ``None`` if it never does.
        max_power_w: Power that the domain cannot exceed; generous, since it only tells a step from a jump.
        may_rest: Whether it may stand still because the part is switched off meanwhile.
    """

    domain: str
    unit_j: float
    range: int | None
    max_power_w: float
    may_rest: bool = False

    @property
    def wrap_s(self) -> float:
        """Shortest time in which it could come round; infinite if it never does."""
        return float("inf") if self.range is None else self.range * self.unit_j / self.max_power_w


@dataclass
class _State:
    raw: int
    total: int  # raw units since the meter was opened: integers, so that nothing is rounded away
    moved_at: float


class CounterMeter:
    """Cumulative joules from raw counters; see :class:`compressor.meters.base.Meter`.

    Args:
        info: What the meter is.
        counters: The counters, at least one.
        read_raw: Reads all of them now; raises :class:`MeterError` if one cannot be read.
        clock: Monotonic seconds.
        guard: Whether a thread reads now and then so that no wrap is missed in long windows.

    Raises:
        MeterError: A counter could not be read.
    """

    def __init__(
        self,
        info: MeterInfo,
        counters: Sequence[Counter],
        read_raw: Callable[[], Mapping[str, int]],
        *,
        clock: Callable[[], float] = time.monotonic,
        guard: bool = True,
    ) -> None:
        self.info = info
        self._counters = tuple(counters)
        self._read_raw = read_raw
        self._clock = clock
        self._lock = threading.Lock()
        self._epoch = 0
        self._missed: MeterError | None = None
        self._closed = threading.Event()
        raw = read_raw()
        self._time = clock()
        self._state = {c.domain: _State(raw[c.domain], 0, self._time) for c in self._counters}
        self.guard_interval_s = min(_LONGEST_GUARD_S, min(c.wrap_s for c in self._counters) / _GUARDS_PER_WRAP)
        self._guard: threading.Thread | None = None
        if guard and any(c.range is not None for c in self._counters):
            self._guard = threading.Thread(target=self._watch, name=f"{info.name} guard", daemon=True)
            self._guard.start()

    def read(self) -> Reading:
        """Read the counters now.

        Raises:
            MeterError: A counter could not be read, stands still, may have wrapped more than once, or jumped.
        """
        with self._lock:
            if self._closed.is_set():
                raise MeterError("is closed", where=self.info.name)
            if self._missed is not None:
                missed, self._missed = self._missed, None
                raise missed
            self._advance(self._read_raw())
            energy = {c.domain: self._state[c.domain].total * c.unit_j for c in self._counters}
            return Reading(self._time, energy, self._epoch)

    def close(self) -> None:
        """End the guard."""
        self._closed.set()
        if self._guard is not None:
            self._guard.join()

    def _watch(self) -> None:
        while not self._closed.wait(self.guard_interval_s):
            with self._lock:
                try:
                    raw = self._read_raw()
                except MeterError:
                    continue  # nothing is lost yet: whoever reads next finds out whether the count still holds
                try:
                    self._advance(raw, judge_stillness=False)
                except MeterError as e:
                    self._missed = e

    def _advance(self, raw: Mapping[str, int], judge_stillness: bool = True) -> None:
        now = self._clock()
        elapsed = now - self._time
        problem = next((p for c in self._counters if (p := self._problem(c, raw[c.domain], elapsed))), None)
        still = self._still(raw, now) if judge_stillness else None
        for c in self._counters:
            state = self._state[c.domain]
            if raw[c.domain] != state.raw:
                if not problem:
                    state.total += self._step(c, state.raw, raw[c.domain])
                state.raw, state.moved_at = raw[c.domain], now
        self._time = now
        if lost := problem or still:
            self._epoch += 1
            raise MeterError(lost, where=self.info.name)

    @staticmethod
    def _step(counter: Counter, before: int, after: int) -> int:
        return after - before if counter.range is None else (after - before) % counter.range

    def _problem(self, c: Counter, raw: int, elapsed: float) -> str | None:
        before = self._state[c.domain].raw
        if elapsed >= c.wrap_s:
            return (
                f"the counter {c.domain} was not read for {elapsed:.3g} s and may have wrapped more than once: "
                f"at {c.max_power_w:.0f} W it comes round in {c.wrap_s:.3g} s"
            )
        if raw < 0 or (c.range is not None and raw > c.range):
            return f"the counter {c.domain} reads {raw}, which is outside 0 to {c.range or 'any number'}"
        step_j = self._step(c, before, raw) * c.unit_j
        if step_j < 0:
            return f"the counter {c.domain} fell by {-step_j:.6g} J: it was reset"
        slack_s = max(_SLACK_S, _SLACK_PERIODS * self.info.update_period_s)
        if step_j > c.max_power_w * (elapsed + slack_s):
            return (
                f"the counter {c.domain} jumped by {step_j:.6g} J in {elapsed:.3g} s, more than {c.max_power_w:.0f} W: "
                "it was reset or misread"
            )
        return None

    def _still(self, raw: Mapping[str, int], now: float) -> str | None:
        limit = max(_STILL_PERIODS * self.info.update_period_s, _STILL_S)
        for c in self._counters:
            state = self._state[c.domain]
            if not c.may_rest and raw[c.domain] == state.raw and now - state.moved_at > limit:
                return f"the counter {c.domain} stands still for {now - state.moved_at:.3g} s"
        return None


@dataclass(frozen=True)
class Ticks:
    """How a counter moves.

    Attributes:
        period_s: Median time between two changes.
        step: Smallest change seen, in raw units.
    """

    period_s: float
    step: int


def watch_ticks(
    read: Callable[[], int], limit_s: float, clock: Callable[[], float] = time.monotonic, enough: int = 25
) -> Ticks | None:
    """Poll a counter to learn its update period and resolution.

    Args:
        read: Reads the raw counter.
        limit_s: How long to poll at most, in s; four times that if it moves fewer than three times.
        clock: Monotonic seconds.
        enough: After how many changes to stop.

    Returns:
        What was seen, or ``None`` if it never moved. A counter that moved only once or twice is given the longest
        period that fits.

    Raises:
        MeterError: The counter could not be read.
    """
    start = now = clock()
    last = read()
    moved: list[float] = []
    steps: list[int] = []
    while len(moved) < enough and now - start < (limit_s if len(moved) >= 3 else 4 * limit_s):
        value = read()
        now = clock()
        if value != last:
            moved.append(now)
            if value > last:  # a wrap tells nothing about the step
                steps.append(value - last)
            last = value
    if not moved:
        return None
    gaps = sorted(b - a for a, b in pairwise(moved))
    period = gaps[len(gaps) // 2] if len(gaps) >= 2 else (now - start) / len(moved)
    return Ticks(period, min(steps, default=1))

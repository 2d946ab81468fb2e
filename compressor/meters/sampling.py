"""Power sensors: watts sampled by a thread and integrated into joules by the trapezoidal rule."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping

from compressor.errors import MeterError
from compressor.meters.counter import CounterMeter
from compressor.results import MeterInfo, Reading

# Between samples further apart than this nobody knows what the power did.
_LONGEST_GAP_PERIODS = 5
_LONGEST_GAP_S = 1.0


class SampledMeter:
    """Cumulative joules from power; see :class:`compressor.meters.base.Meter`.

    Every read takes a sample of its own, so that a window ends when it ends.

    Args:
        info: What the meter is.
        read_watts: Reads all sensors now, in W; raises :class:`MeterError` if one cannot be read.
        period_s: Time between samples.
        clock: Monotonic seconds.
        thread: Whether a thread takes samples between reads.

    Attributes:
        watts: The last sample.

    Raises:
        MeterError: A sensor could not be read.
    """

    def __init__(
        self,
        info: MeterInfo,
        read_watts: Callable[[], Mapping[str, float]],
        period_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        thread: bool = True,
    ) -> None:
        self.info = info
        self.largest_gap_s = 0.0
        self._read_watts = read_watts
        self._period_s = period_s
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._epoch = 0
        self._failure = ""
        self._missed: MeterError | None = None
        self.watts = self._checked(read_watts())
        self._time = clock()
        self._energy = dict.fromkeys(self.watts, 0.0)
        self._thread: threading.Thread | None = None
        if thread:
            self._thread = threading.Thread(target=self._keep_sampling, name=f"{info.name} sampler", daemon=True)
            self._thread.start()

    @property
    def longest_gap_s(self) -> float:
        """The longest time between samples over which power is integrated at all."""
        return max(_LONGEST_GAP_S, _LONGEST_GAP_PERIODS * self._period_s)

    def read(self) -> Reading:
        """Sample now and give the joules so far.

        Raises:
            MeterError: A sensor could not be read, or had not been for too long.
        """
        with self._lock:
            if self._closed.is_set():
                raise MeterError("is closed", where=self.info.name)
            if self._missed is not None:
                missed, self._missed = self._missed, None
                raise missed
            self._sample()
            return Reading(self._time, dict(self._energy), self._epoch)

    def close(self) -> None:
        """End the sampling."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _keep_sampling(self) -> None:
        while not self._closed.wait(self._period_s):
            with self._lock:
                epoch = self._epoch
                try:
                    self._sample()
                except MeterError as e:
                    self._failure = e.what
                    if self._epoch != epoch:
                        self._missed = e

    def _sample(self) -> None:
        watts = self._checked(self._read_watts())
        now = self._clock()
        gap = now - self._time
        lost = gap > self.longest_gap_s
        if not lost:
            self.largest_gap_s = max(self.largest_gap_s, gap)
            for domain, power in watts.items():
                self._energy[domain] += 0.5 * (self.watts[domain] + power) * gap
        self.watts, self._time = watts, now
        failure, self._failure = self._failure, ""
        if lost:
            self._epoch += 1
            reason = f" ({failure})" if failure else ""
            raise MeterError(f"no power sample for {gap:.3g} s{reason}", where=self.info.name)

    def _checked(self, watts: Mapping[str, float]) -> Mapping[str, float]:
        for domain, power in watts.items():
            if not (math.isfinite(power) and power >= 0):
                raise MeterError(f"the sensor {domain} reads {power:g} W", where=self.info.name)
        return watts


class CombinedMeter:
    """Counters and power sensors of one kind of device, read together.

    Args:
        info: What they are together.
        parts: The meters, with different domains.
        on_close: Called when everything is closed.
        load: Samples the devices' utilisation, 0..1, which adds up to busy seconds as watts do to joules; ``None``
            where no device tells it.
    """

    def __init__(
        self,
        info: MeterInfo,
        parts: tuple[CounterMeter | SampledMeter, ...],
        on_close: Callable[[], None] | None = None,
        load: SampledMeter | None = None,
    ) -> None:
        self.info = info
        self._parts = parts
        self._on_close = on_close
        self._load = load

    @property
    def largest_gap_s(self) -> float:
        """The longest time between two power samples so far; 0 where counters are read."""
        return max((part.largest_gap_s for part in self._parts if isinstance(part, SampledMeter)), default=0.0)

    def read(self) -> Reading:
        """Read all parts now.

        Raises:
            MeterError: One of them failed.
        """
        readings = [part.read() for part in self._parts]
        energy = {domain: joules for reading in readings for domain, joules in reading.energy_j.items()}
        epoch, time_s = sum(reading.epoch for reading in readings), readings[-1].time_s
        return Reading(time_s, energy, epoch, self._busy_s(time_s))

    def _busy_s(self, time_s: float) -> Mapping[str, float]:
        """Busy seconds at a moment just before; nothing where they could not be read, which spoils no joules."""
        if self._load is None:
            return {}
        try:
            now = self._load.read()
        except MeterError:
            return {}
        return {
            domain: busy - (now.time_s - time_s) * self._load.watts[domain] for domain, busy in now.energy_j.items()
        }

    def close(self) -> None:
        """Close all parts."""
        for part in (*self._parts, *([self._load] if self._load else [])):
            part.close()
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close()

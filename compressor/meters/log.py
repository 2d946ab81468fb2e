"""A wall meter's record: CSV or JSON lines of time stamp and watts (or the meter's count of joules).

CSV has a header with the columns ``timestamp`` and ``watts`` or ``joules``; JSON lines have these keys. A stamp is ISO
8601 with its zone, or Unix time in s. ``joules`` is a cumulative count, which never falls. A further column
``host_time``, where the logger writes down this machine's clock beside the meter's, lets skew be seen.

The log may grow while it is read: a reading waits up to two periods for the sample that covers it. After a run,
:meth:`PowerLog.energy_over` gives the joules between two moments.
"""

from __future__ import annotations

import csv
import json
import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from compressor.errors import MeterError
from compressor.meters.base import MeterOptions
from compressor.results import MeterInfo, MeterStatus, Reading

MAX_SKEW_S = 0.8
"""Largest difference between the meter's clock and this machine's (MLPerf Power's bound)."""

_GAP_PERIODS = 3.0
_LEAST_SAMPLES = 3
_LEAST_WAIT_S = 0.2
# 1973 to 2286; a stamp in ms or since the logger's start falls outside
_UNIX_S = (1e8, 1e10)


class PowerLog:
    """A power log as far as it has been written.

    Args:
        path: The file.

    Raises:
        MeterError: It cannot be read or understood.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.times: list[float] = []
        self.values: list[float] = []  # watts, or the meter's count of joules
        self.joules: list[float] = []
        self._offset = self._line = 0
        self._columns: list[str] | None = None
        self.counts_joules = False
        self.update()

    def update(self) -> None:
        """Read the lines that were written since; a last line without its end is left for the next time.

        Raises:
            MeterError: A line cannot be understood, or the file shrank.
        """
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._offset:
                    raise MeterError("was cut or replaced while it was read", where=self.path)
                file.seek(self._offset)
                new = file.read()
        except OSError as e:
            raise MeterError(f"cannot be read ({e.strerror})", where=self.path) from e
        whole, newline, _ = new.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.decode("utf-8-sig", errors="replace").splitlines() if newline else ():
            self._line += 1
            if line.strip():
                self._take(line.strip())

    @property
    def period_s(self) -> float:
        """Median time between two samples."""
        gaps = sorted(b - a for a, b in pairwise(self.times))
        return gaps[len(gaps) // 2]

    def energy_over(self, start_utc_s: float, end_utc_s: float) -> float:
        """Joules between two moments.

        Args:
            start_utc_s: Unix time of the start, in s.
            end_utc_s: Unix time of the end, in s.

        Raises:
            MeterError: The log does not cover all of it.
        """
        self.require_samples()
        for moment in (start_utc_s, end_utc_s):
            if not self.times[0] <= moment <= self.times[-1]:
                raise MeterError(
                    f"does not cover {_iso(moment)}: it goes from {_iso(self.times[0])} to {_iso(self.times[-1])}",
                    where=self.path,
                )
        limit = _GAP_PERIODS * self.period_s
        first, last = bisect_right(self.times, start_utc_s) - 1, bisect_left(self.times, end_utc_s)
        for a, b in pairwise(self.times[max(0, first) : last + 1]):
            if b - a > limit:
                raise MeterError(
                    f"has a gap of {b - a:.3g} s at {_iso(a)}, with a sample every {self.period_s:.3g} s elsewhere",
                    where=self.path,
                )
        return self._joules_at(end_utc_s) - self._joules_at(start_utc_s)

    def _joules_at(self, moment: float) -> float:
        """Joules from the first sample on; power is linear between samples."""
        right = min(max(bisect_left(self.times, moment), 1), len(self.times) - 1)
        a, b = self.times[right - 1], self.times[right]
        share = (moment - a) / (b - a)
        if self.counts_joules:
            return self.joules[right - 1] + share * (self.joules[right] - self.joules[right - 1])
        before, after = self.values[right - 1], self.values[right]
        return self.joules[right - 1] + (before + 0.5 * share * (after - before)) * (moment - a)

    def require_samples(self) -> None:
        """Raise :class:`MeterError` if there are too few samples to tell the period."""
        if len(self.times) < _LEAST_SAMPLES:
            raise MeterError(f"holds {len(self.times)} samples where {_LEAST_SAMPLES} are needed", where=self.path)

    def _wrong(self, what: str, mend: str | None = None) -> MeterError:
        return MeterError(what, where=f"{self.path}:{self._line}", mend=mend)

    def _take(self, line: str) -> None:
        if line.startswith("{"):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as e:
                raise self._wrong(f"is no JSON ({e.msg})") from e
        else:
            cells = [cell.strip() for cell in next(csv.reader([line]))]
            if self._columns is None:
                self._columns = [cell.lower() for cell in cells]
                self._require_keys(set(self._columns), "the header")
                return
            if len(cells) != len(self._columns):
                raise self._wrong(f"has {len(cells)} columns where the header has {len(self._columns)}")
            row = dict(zip(self._columns, cells, strict=True))
        self._require_keys(set(row), "the record")
        stamp = self._stamp(row["timestamp"])
        if self.times and stamp <= self.times[-1]:
            same = "repeats" if stamp == self.times[-1] else "goes back to"
            raise self._wrong(
                f"{same} {_iso(stamp)} after {_iso(self.times[-1])}", "sort the log by time, one per stamp"
            )
        if row.get("host_time") not in (None, ""):
            skew = stamp - self._stamp(row["host_time"])
            if abs(skew) > MAX_SKEW_S:
                raise self._wrong(
                    f"the meter's clock is {abs(skew):.3g} s {'ahead of' if skew > 0 else 'behind'} this machine's",
                    f"set both by NTP: at most {MAX_SKEW_S} s are allowed",
                )
        self._add(stamp, row)

    def _add(self, stamp: float, row: dict[str, object]) -> None:
        if self.times and self.counts_joules != ("joules" in row):
            raise self._wrong("has watts and joules in turn", "keep to one of them")
        self.counts_joules = "joules" in row
        value = self._number(row["joules" if self.counts_joules else "watts"])
        if value < 0:
            raise self._wrong(f"reads {value:g}, less than nothing")
        if self.counts_joules:
            if self.joules and value < self.joules[-1]:
                raise self._wrong(
                    f"joules fall from {self.joules[-1]:g} to {value:g}", "give the meter's count, which never falls"
                )
            self.joules.append(value)
        elif self.times:
            step = 0.5 * (self.values[-1] + value) * (stamp - self.times[-1])
            self.joules.append(self.joules[-1] + step)
        else:
            self.joules.append(0.0)
        self.values.append(value)
        self.times.append(stamp)

    def _require_keys(self, keys: set[str], which: str) -> None:
        if "timestamp" not in keys or len(keys & {"watts", "joules"}) != 1:
            raise self._wrong(
                f"{which} has {', '.join(sorted(keys)) or 'nothing'}",
                "it needs 'timestamp' and either 'watts' or 'joules'",
            )

    def _number(self, value: object) -> float:
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or isinstance(value, bool):
            raise self._wrong(f"{str(value)[:40]!r} is no number")
        return number

    def _stamp(self, value: object) -> float:
        text = str(value).strip()
        try:
            seconds = float(text)
        except ValueError:
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                raise self._wrong(f"{text[:40]!r} is no ISO 8601 time and no Unix time") from None
            if moment.tzinfo is None:
                raise self._wrong(f"{text!r} is a local time without its zone", f"write {text}Z if it is UTC") from None
            return moment.timestamp()
        if not _UNIX_S[0] < seconds < _UNIX_S[1]:
            raise self._wrong(f"{text!r} is no Unix time in s")
        return seconds


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LogMeter:
    """A growing power log as a meter; see :class:`compressor.meters.base.Meter`.

    Args:
        path: The file.
        clock: Monotonic seconds.
        utc: This machine's Unix time.
        sleep: Waits.

    Raises:
        MeterError: The file cannot be read or understood, or has too few samples to tell its period.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.monotonic,
        utc: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.log = PowerLog(path)
        self._clock, self._utc, self._sleep = clock, utc, sleep
        self._offset_s = utc() - clock()
        self._last: float | None = None
        self._epoch = 0
        self._joules = 0.0
        self._closed = False
        self.log.require_samples()
        period = self.log.period_s
        steps = [abs(b - a) for a, b in pairwise(self.log.values) if b != a]
        unit = 1.0 if self.log.counts_joules else period
        self.info = MeterInfo(
            name="log",
            domains=("machine",),
            provenance="measured",
            scope="machine",
            update_period_s=period,
            resolution_j=min(steps, default=0.0) * unit,
            source=f"power log {path}",
        )

    def read(self) -> Reading:
        """Joules up to now; waits up to two periods until the log covers this moment.

        Raises:
            MeterError: The log does not cover the time since the last reading, or its clock is not this machine's.
        """
        if self._closed:
            raise MeterError("is closed", where="log")
        now, moment = self._clock(), self._utc()
        try:
            self._follow(now, moment)
            # The first reading starts the count; it has to be covered all the same.
            self._joules += self.log.energy_over(moment if self._last is None else self._last, moment)
        except MeterError:
            if self._last is not None:
                self._last = None
                self._epoch += 1
            raise
        self._last = moment
        return Reading(now, {"machine": self._joules}, self._epoch)

    def close(self) -> None:
        """Reading afterwards is an error."""
        self._closed = True

    def _follow(self, now: float, moment: float) -> None:
        stepped = moment - now - self._offset_s
        if abs(stepped) > MAX_SKEW_S:
            self._offset_s = moment - now
            raise MeterError(f"this machine's clock was set by {stepped:+.3g} s", where=self.log.path)
        deadline = now + max(2 * self.info.update_period_s, _LEAST_WAIT_S)
        while True:
            self.log.update()
            ahead = self.log.times[-1] - self._utc()
            if ahead > MAX_SKEW_S:
                raise MeterError(
                    f"the meter's clock is {ahead:.3g} s ahead of this machine's",
                    where=self.log.path,
                    mend=f"set both by NTP: at most {MAX_SKEW_S} s are allowed",
                )
            if self.log.times[-1] >= moment or self._clock() >= deadline:
                return
            self._sleep(min(0.05, self.info.update_period_s / 4))


def probe() -> MeterStatus:
    """Not usable without a file."""
    raise MeterError("needs a file that a wall meter writes", mend="--meter log:power.csv")


def open_meter(argument: str | None, options: MeterOptions) -> LogMeter:
    """Open the meter on the file named by the argument."""
    return LogMeter(Path(argument or "").expanduser())

"""A recorded trace of readings, for tests, documents and rebuilding a report on a machine without the meter.

A trace is one JSON object: ``meter`` (name, domains, scope, provenance and so on, as in ``MeterInfo``) and
``readings`` (``time_s`` and ``energy_j`` per domain, as in ``Reading``).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

from compressor.errors import MeterError
from compressor.meters.base import MeterOptions
from compressor.results import MeterInfo, MeterStatus, Provenance, Reading, Scope


def write_trace(path: Path, info: MeterInfo, readings: Sequence[Reading]) -> None:
    """Record readings.

    Args:
        path: The file to write.
        info: The meter they come from.
        readings: In the order they were taken.
    """
    beside = path.with_name(f"{path.name}.part")
    trace = {"meter": asdict(info), "readings": [asdict(reading) for reading in readings]}
    beside.write_text(json.dumps(trace, indent=1, default=dict) + "\n", encoding="utf-8")
    os.replace(beside, path)


class ReplayMeter:
    """Gives the readings of a trace one after the other; see :class:`compressor.meters.base.Meter`.

    Args:
        path: The trace.

    Raises:
        MeterError: It cannot be read, or is no trace.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            trace = json.loads(path.read_text(encoding="utf-8"))
        except OSError as e:
            raise MeterError(f"cannot be read ({e.strerror})", where=path) from e
        except ValueError as e:
            raise MeterError("is no JSON", where=path) from e
        try:
            self.info = _info(trace["meter"], path)
            self._readings = [_reading(r, self.info, f"{path}: reading {i}") for i, r in enumerate(trace["readings"])]
        except (KeyError, TypeError, AttributeError) as e:
            raise MeterError(
                "is no trace of readings", where=path, mend="write one with compressor.meters.replay.write_trace"
            ) from e
        self._next = 0
        self._closed = False

    def read(self) -> Reading:
        """The next reading, with the time it was taken at.

        Raises:
            MeterError: The trace is at its end.
        """
        if self._closed:
            raise MeterError("is closed", where="replay")
        if self._next == len(self._readings):
            raise MeterError(f"the trace ends after {len(self._readings)} readings", where=self._path)
        self._next += 1
        return self._readings[self._next - 1]

    def close(self) -> None:
        """Reading afterwards is an error."""
        self._closed = True


def _info(meter: Any, path: Path) -> MeterInfo:
    if unknown := set(meter) - {field.name for field in fields(MeterInfo)}:
        raise MeterError(f"the meter has the unknown key '{min(unknown)}'", where=path)
    for key, known in (("scope", get_args(Scope)), ("provenance", get_args(Provenance))):
        if meter[key] not in known:
            raise MeterError(f"the meter has the unknown {key} '{meter[key]}'", where=path)
    return MeterInfo(
        name="replay",
        domains=tuple(meter["domains"]),
        # What was estimated is no measurement for having been recorded.
        provenance="estimated" if meter["provenance"] == "estimated" else "replayed",
        scope=meter["scope"],
        update_period_s=float(meter["update_period_s"]),
        resolution_j=float(meter["resolution_j"]),
        source=f"trace {path.name} of {meter['name']}, {meter['provenance']}: {meter['source']}",
        total=tuple(meter.get("total", ())),
    )


def _reading(reading: Any, info: MeterInfo, where: str) -> Reading:
    energy = dict(reading["energy_j"])
    if unknown := set(energy) - set(info.domains):
        raise MeterError(f"has the unknown domain '{min(unknown)}'", where=where)
    for name, value in {"time_s": reading["time_s"], **energy}.items():
        # a failed reading is an absent domain; null or 0 in its place would become joules
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise MeterError(f"'{name}' is {json.dumps(value)}, no number", where=where, mend="leave it out")
    return Reading(float(reading["time_s"]), {k: float(v) for k, v in energy.items()}, int(reading.get("epoch", 0)))


def probe() -> MeterStatus:
    """Not usable without a trace."""
    raise MeterError("needs a recorded trace", mend="--meter replay:trace.json")


def open_meter(argument: str | None, options: MeterOptions) -> ReplayMeter:
    """Open the meter on the trace named by the argument."""
    return ReplayMeter(Path(argument or "").expanduser())

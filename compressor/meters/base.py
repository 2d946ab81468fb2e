"""The Meter: cumulative joules per domain and a time stamp; differences are taken outside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from compressor.errors import MeterError
from compressor.results import MeterInfo, Reading


class Meter(Protocol):
    """Something that counts joules.

    Attributes:
        info: What it is, where its joules come from and how often its counter moves.
    """

    info: MeterInfo

    def read(self) -> Reading:
        """Read the counters now.

        Returns:
            Cumulative joules per domain, wraps already undone, so that they never fall.

        Raises:
            MeterError: A counter could not be read, or moved in a way that cannot be explained.
        """

    def close(self) -> None:
        """Give back what was opened; reading afterwards is an error."""


def energy_between(start: Reading, end: Reading, meter: str) -> Mapping[str, float]:
    """Joules per domain between two readings of one meter.

    Args:
        start: The earlier reading.
        end: The later one.
        meter: The meter's name, for the keys and the messages.

    Returns:
        Joules keyed ``meter/domain``, for the domains in both readings.

    Raises:
        MeterError: Time or energy ran backwards, or a domain vanished meanwhile.
    """
    if end.time_s < start.time_s:
        raise MeterError("time ran backwards between two readings", where=meter)
    if lost := start.energy_j.keys() - end.energy_j.keys():
        raise MeterError(f"lost the domain {sorted(lost)[0]} in mid-window", where=meter)
    joules = {f"{meter}/{domain}": end.energy_j[domain] - before for domain, before in start.energy_j.items()}
    if negative := [key for key, value in joules.items() if value < 0]:
        raise MeterError(f"counted {joules[negative[0]]:.6g} J in {negative[0]}, less than nothing", where=meter)
    return joules

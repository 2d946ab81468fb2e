"""The Meter: cumulative joules per domain and a time stamp; differences are taken outside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from compressor.errors import MeterError
from compressor.results import MeterInfo, Reading, Scope

PERIODS_PER_WINDOW = 100
"""A window lasts at least so many update periods of the slowest counter, so that its edges blur it by 1 % at most."""


@dataclass(frozen=True)
class MeterOptions:
    """What a meter is told when it is opened; each meter uses what concerns it.

    Attributes:
        cpu_clock: CPU seconds of the process being measured, its threads included; ``None`` for this process.
        watts_per_core: The user's figure for the estimate of ``cpu-time``; ``None`` for the table's.
    """

    cpu_clock: Callable[[], float] | None = None
    watts_per_core: float | None = None


class Meter(Protocol):
    """Something that counts joules.

    A failed read loses no joules by itself: where the counter's next good value still tells how far it went, the
    count goes on. Where it does not, the reading that notices raises with the cause, and the epoch of later readings is
    higher, so that no window can reach across the hole.

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
        MeterError: Time or energy ran backwards or is no number, the meter lost count or a domain vanished meanwhile.
    """
    if end.epoch != start.epoch:
        raise MeterError("lost count between two readings", where=meter)
    if end.time_s < start.time_s:
        raise MeterError("time ran backwards between two readings", where=meter)
    if lost := start.energy_j.keys() - end.energy_j.keys():
        raise MeterError(f"lost the domain {sorted(lost)[0]} in mid-window", where=meter)
    joules = {f"{meter}/{domain}": end.energy_j[domain] - before for domain, before in start.energy_j.items()}
    if odd := [key for key, value in joules.items() if not math.isfinite(value)]:
        raise MeterError(f"counted {joules[odd[0]]:g} J in {odd[0]}, which is no number", where=meter)
    if negative := [key for key, value in joules.items() if value < 0]:
        raise MeterError(f"counted {joules[negative[0]]:.6g} J in {negative[0]}, less than nothing", where=meter)
    return joules


def gap_note(meter: Meter) -> str:
    """A note on a meter that samples power and at some time was late with it; empty for any other."""
    gap_s: float = getattr(meter, "largest_gap_s", 0.0)
    if gap_s <= 2 * meter.info.update_period_s:
        return ""
    return f"{meter.info.name}: {gap_s:.3g} s passed between two power samples"


# What covers the board or the machine holds the package and the device too, so it is the total only without them.
_ADDED_UP: tuple[tuple[Scope, ...], ...] = (("package", "device"), ("board",), ("machine",), ("process",))


def disjoint(infos: Iterable[MeterInfo]) -> tuple[str, ...]:
    """The domains that may be added up, because none of them contains another.

    One meter of the CPU's package and one of the accelerator, where there are such; else one of the board, of the
    machine or of the process.

    Args:
        infos: What the meters are; of two with the same scope the first counts.

    Returns:
        Keys ``meter/domain``.
    """
    by_scope: dict[Scope, MeterInfo] = {}
    for info in infos:
        by_scope.setdefault(info.scope, info)
    chosen = next(
        ([by_scope[s] for s in scopes if s in by_scope] for scopes in _ADDED_UP if by_scope.keys() & scopes), []
    )
    return tuple(f"{info.name}/{domain}" for info in chosen for domain in info.total or info.domains)

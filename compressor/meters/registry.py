"""Which meters there are, which of them this machine has, and how to open one.

How to add a meter: write ``compressor/meters/NAME.py`` with

- ``probe() -> MeterStatus``: what it is if it can be read here, quickly, else :class:`MeterError` with why not and the
  lines that would mend it,
- ``open_meter(argument: str | None, options: MeterOptions) -> Meter``: open it or raise :class:`MeterError`,

and add its line to the table below. A package of your own needs no line here: it names such a module under the entry
point group ``compressor.meters`` (``mymeter = "mypackage.mymeter"``). A meter that needs an argument says so in its
probe, is not usable without one and is therefore never chosen by itself. See :mod:`compressor.meters.counter` for
counters that wrap and :mod:`compressor.meters.sampling` for power sensors.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from functools import cache
from types import ModuleType

from compressor.errors import MeterError, nearest
from compressor.meters.base import Meter, MeterOptions
from compressor.results import MeterStatus

__all__ = ["MeterOptions", "meter_names", "open_ladder", "open_meter", "status", "statuses"]

GROUP = "compressor.meters"
FALLBACK = "cpu-time"

_MODULES: Mapping[str, str] = {
    "rapl": "compressor.meters.rapl",
    "pyrapl": "compressor.meters.pyrapl",
    "nvml": "compressor.meters.nvml",
    "hwmon": "compressor.meters.hwmon",
    "battery": "compressor.meters.battery",
    "log": "compressor.meters.log",
    "exec": "compressor.meters.exec",
    "replay": "compressor.meters.replay",
    "cpu-time": "compressor.meters.cpu_time",
}

_TAKES_ARGUMENT = frozenset({"log", "exec", "replay"})

# Not chosen beside the meter that reads the very same counters.
_SAME_COUNTERS = {"pyrapl": "rapl"}


@cache
def _outside() -> Mapping[str, importlib.metadata.EntryPoint]:
    points = importlib.metadata.entry_points(group=GROUP)
    return {point.name: point for point in points if point.name not in _MODULES}


def meter_names() -> tuple[str, ...]:
    """Every meter's name, those of outside packages last."""
    return (*_MODULES, *sorted(_outside()))


def _module(name: str) -> ModuleType:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    try:
        module = _outside()[name].load()
    except KeyError:
        raise MeterError(f"there is no meter '{name}'", mend=nearest(name, meter_names())) from None
    except Exception as e:  # an outside package may fail in any way, and must not take the other meters with it
        raise MeterError(f"its package fails to load: {type(e).__name__}: {e}", where=name) from e
    if not isinstance(module, ModuleType):
        raise MeterError(f"the entry point '{_outside()[name].value}' is not a module", where=name)
    return module


def status(name: str) -> MeterStatus:
    """Whether a meter can be used here.

    Raises:
        MeterError: There is no such meter.
    """
    if name not in meter_names():
        raise MeterError(f"there is no meter '{name}'", mend=nearest(name, meter_names()))
    try:
        found: MeterStatus = _module(name).probe()
    except MeterError as e:
        return MeterStatus(name, False, None, e.what if e.where is None else f"{e.where}: {e.what}", e.mend or "")
    except Exception as e:  # as above: an outside package's
        if name in _MODULES:
            raise
        return MeterStatus(name, False, None, f"its probe fails: {type(e).__name__}: {e}")
    return found


def statuses() -> tuple[MeterStatus, ...]:
    """Every meter: usable here or not, why not, and how to mend it."""
    return tuple(status(name) for name in meter_names())


def open_meter(spec: str, options: MeterOptions) -> Meter:
    """Open the meter that the user named.

    Args:
        spec: ``name`` or ``name:argument``, e.g. ``rapl``, ``log:power.csv``, ``exec:ipmitool dcmi power reading``.
        options: What the meter is told.

    Raises:
        MeterError: There is no such meter, or it cannot be read. There is no fall-back.
    """
    name, colon, argument = spec.partition(":")
    module = _module(name)
    if colon and not argument.strip():
        raise MeterError("the argument behind ':' is empty", where=spec)
    if name in _MODULES and (name in _TAKES_ARGUMENT) != bool(colon):
        if colon:
            raise MeterError("takes no argument", where=name, mend=f"use '{name}' alone")
        raise MeterError("needs an argument", where=name, mend=status(name).mend)
    meter: Meter = module.open_meter(argument if colon else None, options)
    return meter


def open_ladder(options: MeterOptions) -> tuple[Meter, ...]:
    """Open what is best here: every meter that measures and needs no argument, else the estimate.

    Args:
        options: What the meters are told.

    Returns:
        At least one meter; measured and estimated joules are never mixed.
    """
    usable = [s.name for s in statuses() if s.usable and s.info is not None and s.info.provenance == "measured"]
    chosen = [name for name in usable if _SAME_COUNTERS.get(name) not in usable]
    meters: list[Meter] = []
    for name in chosen:
        try:
            meters.append(open_meter(name, options))
        except BaseException:
            for meter in meters:
                meter.close()
            raise
    return tuple(meters) or (open_meter(FALLBACK, options),)

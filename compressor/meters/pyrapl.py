"""RAPL through pyRAPL: the same counters as ``rapl``, for those who want their figures from that library.

Only ``Sensor().energy()`` of pyRAPL 0.2.3.1 is used, which gives raw µJ (its docstring says J). Its ``Measurement`` is
not: it subtracts without undoing the wrap and turns a wrapped window into ``None``.
"""

from __future__ import annotations

import importlib.util
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from compressor.errors import MeterError
from compressor.meters.base import MeterOptions
from compressor.meters.counter import CounterMeter, watch_ticks
from compressor.meters.rapl import MEND, Zone, counters_of, find_zones, total_of
from compressor.meters.sampling import CombinedMeter
from compressor.results import MeterInfo, MeterStatus

_DEVICES = ("package", "dram")  # the order in which Sensor.energy() gives each socket's
_PROBE_S = 0.05


def _zones() -> dict[str, Zone]:
    """The counters that pyRAPL would read, found without importing it.

    Raises:
        MeterError: pyRAPL is not installed, or cannot cope with this machine.
    """
    if importlib.util.find_spec("pyRAPL") is None:
        raise MeterError("pyRAPL is not installed", where="pyrapl", mend="pip install pyRAPL==0.2.3.1")
    zones = {zone.domain: zone for zone in find_zones()[0]}
    if dies := [domain for domain in zones if domain.startswith("package") and "die" in domain]:
        raise MeterError(
            f"pyRAPL 0.2.3.1 refuses packages of several dies ({dies[0]})", where="pyrapl", mend="use the meter rapl"
        )
    return {domain: zone for domain, zone in zones.items() if domain.partition("-")[0] in _DEVICES}


def _library() -> Any:
    """pyRAPL, imported without its noise: two log messages about outputs that nobody asked for.

    Raises:
        MeterError: It does not import.
    """
    root, quiet = logging.getLogger(), logging.NullHandler()
    level = root.manager.disable
    root.addHandler(quiet)  # else its first message would set up logging for the whole program
    logging.disable(logging.WARNING)
    try:
        import pyRAPL
    except ImportError as e:
        raise MeterError(f"pyRAPL does not import: {e}", where="pyrapl") from e
    finally:
        logging.disable(level)
        root.removeHandler(quiet)
    return pyRAPL


def _sensor() -> Any:
    """A pyRAPL sensor over whatever this machine has.

    Raises:
        MeterError: pyRAPL cannot read it.
    """
    instead = "use the meter rapl"
    with warnings.catch_warnings():
        # Its source has invalid escapes and it leaves files for the garbage collector to close, also on its way out by
        # an exception: hence the error is raised only when that exception is gone.
        warnings.simplefilter("ignore")
        library = _library()
        try:
            return library.Sensor()
        except PermissionError as e:
            what = "only root may read it (Linux 5.10 and later, CVE-2020-8694)"
            error = MeterError(what, where=f"pyrapl: {e.filename}", mend=MEND)
        except FileNotFoundError as e:
            error = MeterError(f"pyRAPL needs every CPU online and misses {e.filename}", where="pyrapl", mend=instead)
        except (library.PyRAPLException, OSError, ValueError) as e:
            what = f"pyRAPL finds no counter for every socket ({type(e).__name__})"
            error = MeterError(what, where="pyrapl", mend=instead)
    raise error


def _close(sensor: Any) -> None:
    for device in sensor._device_api.values():
        for file in device._sys_files:
            file.close()


def _read(sensor: Any, domains: Mapping[str, int]) -> dict[str, int]:
    try:
        energy = sensor.energy()
    except (OSError, ValueError) as e:
        raise MeterError(f"a counter cannot be read: {e}", where="pyrapl") from e
    raw = {domain: int(energy[index]) for domain, index in domains.items()}
    if unread := [domain for domain, value in raw.items() if value < 0]:
        raise MeterError(f"the counter {unread[0]} was not read", where="pyrapl")
    return raw


def open_pyrapl(clock: Callable[[], float] = time.monotonic, guard: bool = True) -> CombinedMeter:
    """Open what pyRAPL can read, wraps undone.

    Args:
        clock: Monotonic seconds.
        guard: Whether a thread keeps watch over wraps.

    Raises:
        MeterError: pyRAPL cannot read this machine's counters, or the package's stands still.
    """
    zones = _zones()
    sensor = _sensor()
    try:
        return _open(sensor, zones, clock, guard)
    except BaseException:
        _close(sensor)
        raise


def _open(sensor: Any, zones: Mapping[str, Zone], clock: Callable[[], float], guard: bool) -> CombinedMeter:
    # one package and one DRAM value per socket; -1 where there is none
    index = {f"{_DEVICES[i % 2]}-{i // 2}": i for i, value in enumerate(sensor.energy()) if value >= 0}
    index = {domain: i for domain, i in index.items() if domain in zones}
    ticks = watch_ticks(lambda: _read(sensor, index)[next(iter(index))], _PROBE_S, clock) if index else None
    if ticks is None:
        raise MeterError("no counter that moves", where="pyrapl")
    domains = tuple(index)
    info = MeterInfo(
        name="pyrapl",
        domains=domains,
        provenance="measured",
        scope="package",
        update_period_s=ticks.period_s,
        resolution_j=ticks.step * 1e-6,
        source="Linux powercap energy counters, read by pyRAPL 0.2.3.1",
        total=total_of(domains),
    )
    counters = counters_of([zones[domain] for domain in domains])
    meter = CounterMeter(info, counters, lambda: _read(sensor, index), clock=clock, guard=guard)
    return CombinedMeter(info, (meter,), lambda: _close(sensor))


def probe() -> MeterStatus:
    """Whether pyRAPL can read this machine. Raises :class:`MeterError` where not.

    The counters are tried before pyRAPL is imported, which takes half a second: it imports pandas.
    """
    for zone in _zones().values():
        zone.read_uj()
    meter = open_pyrapl(guard=False)
    meter.close()
    return MeterStatus("pyrapl", True, meter.info)


def open_meter(argument: str | None, options: MeterOptions) -> CombinedMeter:
    """Open the meter; see :func:`open_pyrapl`."""
    return open_pyrapl()

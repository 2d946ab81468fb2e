"""A command of the user's that prints watts, or a count of joules: ``ipmitool dcmi power reading``, a plug's script."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import NamedTuple

from compressor.errors import MeterError
from compressor.meters.base import MeterOptions
from compressor.meters.counter import Counter, CounterMeter
from compressor.meters.sampling import SampledMeter
from compressor.results import MeterInfo, MeterStatus

TIMEOUT_S = 5.0

_PERIOD_S = 1.0  # power readings of management controllers and plugs are renewed about once a second
_BOUND_W = 1e6

_WATTS = {"uw": 1e-6, "µw": 1e-6, "mw": 1e-3, "w": 1.0, "watt": 1.0, "watts": 1.0, "kw": 1e3}
_JOULES = {
    **{"uj": 1e-6, "µj": 1e-6, "mj": 1e-3, "j": 1.0, "joule": 1.0, "joules": 1.0, "kj": 1e3},
    **{"wh": 3600.0, "kwh": 3.6e6},
}
_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d{1,2})?"  # a longer exponent is more than a float holds
_UNITS = "|".join(sorted({*_WATTS, *_JOULES}, key=len, reverse=True))


class Printed(NamedTuple):
    """What a command printed.

    Attributes:
        value: Watts, or a count of joules.
        counts: Whether it is the count.
        step: The last digit that was printed, in the same unit.
    """

    value: float
    counts: bool
    step: float


def parse(output: str, where: str) -> Printed:
    """What a command printed: the first number with a unit, or a number alone, which is watts.

    Args:
        output: Its standard output.
        where: The command, for the message.

    Raises:
        MeterError: There is neither.
    """
    text = output.strip().replace("μ", "µ")  # Greek mu and the micro sign look the same
    if re.fullmatch(_NUMBER, text):
        return _printed(text, 1.0, False)
    # The "5 W" of "12,5 W" is none of its own: a comma in a number says different things in different countries.
    # "M" before W would be mega, which no computer draws; anything unlike these units is not guessed at
    if found := re.search(rf"(?<![\w.])(?<!\d,)({_NUMBER})\s*({_UNITS})(?!\w)", text, re.IGNORECASE):
        unit = found[2].lower()
        if not found[2].startswith("M"):
            counts = unit in _JOULES
            return _printed(found[1], _JOULES[unit] if counts else _WATTS[unit], counts)
    raise MeterError(
        f"printed {text[:60]!r}, not a power or energy",
        where=where,
        mend="let it print a number alone (watts), or one with its unit such as '12.5 W' or '4200 J'",
    )


def _printed(number: str, unit: float, counts: bool) -> Printed:
    exponent = Decimal(number).as_tuple().exponent
    return Printed(float(number) * unit, counts, 10.0 ** int(exponent) * unit)


def run(command: str) -> Printed:
    """Run the command once; no shell is between, use ``sh -c '…'`` for one.

    Raises:
        MeterError: It cannot be run, hangs, fails, or prints something else.
    """
    where = f"exec:{command}"
    try:
        words = shlex.split(command)
    except ValueError as e:
        raise MeterError(f"cannot be split into words ({e})", where=where) from e
    try:
        # its own session, so that a hanging command is ended with all its children
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except (OSError, IndexError) as e:
        raise MeterError(f"cannot be run ({e.strerror if isinstance(e, OSError) else 'empty'})", where=where) from e
    try:
        output, errors = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _end(process)
        raise MeterError(f"gave no answer within {TIMEOUT_S:g} s", where=where) from None
    except BaseException:
        _end(process)
        raise
    if process.returncode:
        said = errors.decode(errors="replace").strip()[-120:]
        ended = f"signal {-process.returncode}" if process.returncode < 0 else f"exit status {process.returncode}"
        raise MeterError(f"failed with {ended}{f' ({said})' if said else ''}", where=where)
    return parse(output.decode(errors="replace"), where)


def _end(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.kill()
    else:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    # Not communicate(): a child in a session of its own lives on and keeps the pipes open for as long as it likes.
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def open_exec(
    command: str, clock: Callable[[], float] = time.monotonic, thread: bool = True
) -> CounterMeter | SampledMeter:
    """Open the command as a meter.

    Args:
        command: The command line.
        clock: Monotonic seconds.
        thread: Whether power is sampled between reads.

    Raises:
        MeterError: See :func:`run`.
    """
    started = time.monotonic()
    _, counts, step = run(command)
    # a slow command is given time, so that it does not become the load that is measured
    period = max(_PERIOD_S, 4 * (time.monotonic() - started))
    info = MeterInfo(
        name="exec",
        domains=("machine",),
        provenance="measured",
        scope="machine",
        update_period_s=period,
        resolution_j=step if counts else step * period,
        source=f"command '{command}', {'a count of joules' if counts else 'watts, integrated'}",
    )

    def value(joules: bool) -> float:
        printed = run(command)
        if printed.counts != joules:
            raise MeterError("printed watts and joules in turn", where=f"exec:{command}")
        return printed.value

    def read_microjoules() -> Mapping[str, int]:
        return {"machine": round(value(True) * 1e6)}

    def read_watts() -> Mapping[str, float]:
        return {"machine": value(False)}

    if counts:
        return CounterMeter(info, [Counter("machine", 1e-6, None, _BOUND_W)], read_microjoules, clock=clock)
    return SampledMeter(info, read_watts, period, clock=clock, thread=thread)


def probe() -> MeterStatus:
    """Not usable without a command."""
    raise MeterError("needs a command that prints watts or joules", mend="--meter 'exec:ipmitool dcmi power reading'")


def open_meter(argument: str | None, options: MeterOptions) -> CounterMeter | SampledMeter:
    """Open the meter on the command given as the argument."""
    return open_exec(argument or "")

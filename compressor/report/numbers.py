"""Numbers as they are shown: the digits that the interval supports, a unit that reads well, one form everywhere.

Every renderer takes its strings from here, so the HTML, the Markdown and the terminal agree to the digit.
"""

from __future__ import annotations

import math

Interval = tuple[float, float]

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))
_PREFIXED = {"J", "s", "W", "B", "g CO₂e", "Wh", "FLOP", "FLOP/s", "J·s"}
_DIGITS_WITHOUT_INTERVAL = 3
_MOST_DIGITS = 4
NOT_AVAILABLE = "–"


def _exponent(value: float) -> int:
    """Power of ten of the leading digit."""
    return math.floor(math.log10(abs(value))) if value else 0


def places(value: float, interval: Interval | None) -> int:
    """Decimal places that the interval supports: down to the leading digit of its half-width, one more if that is 1.

    Without an interval three significant digits are shown; never more than four.
    """
    if interval is None or not all(math.isfinite(end) for end in interval):
        # What rounds up to the next power of ten has its exponent.
        return _DIGITS_WITHOUT_INTERVAL - 1 - _exponent(float(f"{value:.{_DIGITS_WITHOUT_INTERVAL - 1}e}"))
    most = _MOST_DIGITS - 1 - _exponent(value)
    half = (interval[1] - interval[0]) / 2
    if not half > 0:
        return most
    place = _exponent(half)
    return min(most, (1 if half / 10.0**place < 2 else 0) - place)


def _fixed(value: float, decimals: int) -> str:
    """Fixed-point text with a real minus sign, thousands apart, and no negative zero."""
    rounded = round(value, decimals)
    text = f"{abs(rounded):,.{max(decimals, 0)}f}".replace(",", " ")
    return f"−{text}" if rounded < 0 else text


def _prefix(value: float, unit: str) -> tuple[float, str]:
    """The scale and the SI prefix that leave one to three digits before the point."""
    if unit not in _PREFIXED or value == 0 or not math.isfinite(value):
        return 1.0, ""
    # What rounds to 1000 belongs to the next prefix.
    size = abs(value) * (1 + 5e-4)
    usable = [p for p in _PREFIXES if unit != "B" or p[0] >= 1]
    return next((p for p in usable if size >= p[0]), usable[-1])


def _scaled(value: float, unit: str) -> tuple[float, str]:
    if unit == "fraction":
        return 0.01, "%"
    scale, prefix = _prefix(value, unit)
    return scale, f"{prefix}{unit}"


def _range(low: str, high: str) -> str:
    return f"[{low}, {high}]"


def quantity(value: float, unit: str, interval: Interval | None = None) -> str:
    """A value in a unit that reads well.

    Args:
        value: In ``unit``.
        unit: ``J``, ``s``, ``W`` and ``B`` get an SI prefix, ``fraction`` becomes per cent, anything
            else is shown as it is.
        interval: Its 95 % interval; decides the digits.

    Returns:
        E.g. ``1.83 mJ``, ``91.9 %``, ``1.2 MB``.
    """
    return apart(with_interval(value, unit, interval))[0]


def with_interval(value: float, unit: str, interval: Interval | None) -> str:
    """A value with its 95 % interval in the same unit and to the same digit: ``1.83 mJ [1.79, 1.87]``."""
    scale, label = _scaled(value, unit)
    shown = value / scale
    inside = None if interval is None else (interval[0] / scale, interval[1] / scale)
    # A value whose interval is wider than itself still shows its leading digit; bytes have no parts.
    decimals = max(places(shown, inside), -_exponent(shown))
    decimals = 0 if label == "B" else decimals
    text = f"{_fixed(shown, decimals)} {label}".rstrip()
    return text if inside is None else f"{text} {_range(*(_fixed(x, decimals) for x in inside))}"


def apart(text: str) -> tuple[str, str]:
    """A shown value and its interval apart: ``1.83 mJ`` and ``[1.79, 1.87]``; the latter is empty if there is none."""
    value, bracket, rest = text.partition(" [")
    return value, f"[{rest}" if bracket else ""


def _times(value: float, interval: Interval | None, word: str) -> str:
    decimals = max(0, places(value, interval) if interval else 1 - _exponent(value))
    text = f"{_fixed(value, decimals)}× {word}"
    return text if interval is None else f"{text} {_range(*(_fixed(x, decimals) for x in interval))}"


def ratio(value: float, interval: Interval | None = None) -> str:
    """A ratio as a plain number: ``0.36 [0.34, 0.38]``."""
    text = _fixed(value, places(value, interval))
    if interval is None:
        return text
    return f"{text} {_range(*(_fixed(x, places(value, interval)) for x in interval))}"


def change(value: float, interval: Interval | None = None) -> str:
    """What a ratio says: ``62 % less [60, 64]``, ``2.1× as much [2.0, 2.2]``, ``1 % less [4 % less, 2 % more]``.

    Args:
        value: Candidate over baseline.
        interval: Its 95 % interval.

    Returns:
        Per cent below 2, a factor from there on.
    """
    if value >= 2:
        return _times(value, interval, "as much")
    percent = 100 * (value - 1)
    inside = None if interval is None else (100 * (interval[0] - 1), 100 * (interval[1] - 1))
    decimals = min(max(places(percent, inside), 0), 2 if inside else 1)
    word = "less" if value < 1 else "more"
    shown = _fixed(abs(percent), decimals)
    if inside is None:
        return "the same" if value == 1 else f"{shown} % {word}"
    low, high = (_fixed(abs(x), decimals) for x in inside)
    if inside[0] < 0 < inside[1]:
        return f"{shown} % {word} [{low} % less, {high} % more]"
    if value < 1:
        low, high = high, low
    return f"{shown} % {word} {_range(low, high)}"


def joined(change_shown: str, other: str) -> str:
    """What follows a :func:`change`: ``than ONNX fp32``, or ``as ONNX fp32`` behind ``2.1× as much`` and the like."""
    return f"{'as' if ' as much' in change_shown or change_shown == 'the same' else 'than'} {other}"


def speed(value: float, interval: Interval | None = None) -> str:
    """What a ratio of times says: ``2.8× faster [2.6, 3.0]``, ``1.2× slower [1.1, 1.3]``; :func:`change` around 1.

    Args:
        value: Candidate's time over the baseline's.
        interval: Its 95 % interval.

    Returns:
        The factor, at least 1.
    """
    if value <= 0 or (interval is not None and interval[0] <= 1 <= interval[1]):
        return change(value, interval)
    if value > 1:
        return _times(value, interval, "slower")
    return _times(1 / value, None if interval is None else (1 / interval[1], 1 / interval[0]), "faster")


def percent(fraction: float, digits: int = 2) -> str:
    """A share to so many significant digits: ``3.1 %``."""
    shown = 100 * fraction
    return f"{_fixed(shown, min(max(0, digits - 1 - _exponent(shown)), 3))} %"


def loss(value: float, unit: str, interval: Interval | None = None) -> str:
    """How much of a score was lost: ``0.2 points lost [−0.1, 0.5]``, ``58 target² worse``.

    A fraction is shown in points of 0.01. What is no share of right answers is not lost, it gets worse.

    Args:
        value: Baseline minus candidate, positive where the candidate is worse.
        unit: The score's unit.
        interval: 95 % interval of ``value``; both ends count as loss.

    Returns:
        The size of the change and in which direction; with an interval the loss keeps its sign.
    """
    scale = 100.0 if unit == "fraction" else 1.0
    shown = value * scale
    inside = None if interval is None else (interval[0] * scale, interval[1] * scale)
    decimals = max(0, places(shown if shown else 1.0, inside))
    decimals = min(decimals, 2) if unit == "fraction" else decimals
    size = _fixed(abs(shown) if inside is None else shown, decimals)
    label = unit if unit != "fraction" else "point" if size in ("1", "−1") else "points"
    down, up = ("lost", "gained") if unit == "fraction" else ("worse", "better")
    if inside is not None:
        low, high = (_fixed(x, decimals) for x in inside)
        return " ".join(f"{size} {label} {down} {_range(low, high)}".split())
    if shown == 0:
        return "no change"
    return " ".join(f"{size} {label} {down if shown > 0 else up}".split())


def margin(value: float, unit: str) -> str:
    """A margin for :func:`loss`: ``1 point``, ``0.5 points``."""
    if unit != "fraction":
        return f"{value:g} {unit}".rstrip()
    shown = 100 * value
    return f"{shown:g} point{'' if shown == 1 else 's'}"


def small(value: float) -> str:
    """A difference that is hoped to be near 0, to two digits: ``3e-6``."""
    return f"{value:.2g}".replace("e-0", "e-")


def count(value: float, interval: Interval | None = None) -> str:
    """A number of things: whole up to a million, then with a word: ``12 400``, ``3.1 million``."""
    for scale, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(value) >= scale:
            inside = None if interval is None else (interval[0] / scale, interval[1] / scale)
            decimals = max(0, places(value / scale, inside))
            text = f"{_fixed(value / scale, decimals)} {word}"
            break
    else:
        scale, inside = 1.0, interval
        decimals = 0 if interval is None else min(0, places(value, interval))
        text = _fixed(value, decimals)
    if inside is None:
        return text
    ends = [_fixed(x, decimals) if math.isfinite(x) else "∞" for x in inside]
    return f"{text} {_range(*ends)}"


def duration(seconds: float) -> str:
    """A stretch of time for people: ``0.42 s``, ``12.3 s``, ``2 min 5 s``, ``3 h 10 min``."""
    if seconds < 99.95:
        return quantity(seconds, "s") if seconds < 1 else f"{_fixed(seconds, 1)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"

"""How much to remove so that a wanted share of the time of a call goes: found with few measurements."""

from __future__ import annotations

from collections.abc import Callable

MEASUREMENTS = 6
"""Most sizes tried between nothing and all that can go."""

NEAR = 0.02
"""Share of the time by which more may go than was wanted; what is nearer is not worth another measurement."""

_MARGIN = 0.2
"""Share of what is left of the range that every step takes off at least, as halving would, wherever the line points."""


def smallest_share(
    seconds: Callable[[float], float], before: float, wanted: float, most: float
) -> tuple[float, float] | None:
    """Find the smallest share of the operations whose removal saves enough time.

    Time falls about linearly with the operations, above a fixed cost; the next share is where the line through the two
    ends of the range meets the wanted time (regula falsi), kept off the ends so that the range shrinks as in bisection.
    Removing more should not make a call slower: where a measurement says so it is repeated, and the smaller of the two
    counts, as other work on a machine only ever adds to a time.

    Args:
        seconds: Time of a call after removing a share of the operations.
        before: Time of a call as it is.
        wanted: Share of the time that has to go, above 0 and below 1.
        most: Largest share of the operations that can be removed.

    Returns:
        The share and the time of a call that was measured with it; ``None`` if ``most`` does not save enough. In that
        case, and only then, nothing but ``most`` was measured.
    """
    goal = before * (1 - wanted)
    low, slow = 0.0, before
    high, fast = most, seconds(most)
    if fast > goal:
        fast = min(fast, seconds(most))
    if fast > goal:
        return None
    for _ in range(MEASUREMENTS):
        if goal - fast <= NEAR * before:
            break
        aim = goal - NEAR / 2 * before
        at = (slow - aim) / (slow - fast) if slow > fast else 0.5
        middle = low + (high - low) * min(max(at, _MARGIN), 1 - _MARGIN)
        found = seconds(middle)
        if not fast <= found <= slow:
            found = min(found, seconds(middle))
        if found <= goal:
            high, fast = middle, found
        else:
            low, slow = middle, found
    return high, fast

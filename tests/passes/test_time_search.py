from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.passes.time_search import MEASUREMENTS, NEAR, smallest_share

shares = st.floats(0.05, 0.9)


def counted(seconds: Callable[[float], float]) -> tuple[Callable[[float], float], list[float]]:
    asked: list[float] = []

    def clock(share: float) -> float:
        asked.append(share)
        return seconds(share)

    return clock, asked


@given(shares, st.floats(0, 0.5), st.floats(0.5, 2))
def test_a_time_that_falls_with_the_operations_is_met_closely(wanted: float, fixed: float, bend: float) -> None:
    def seconds(share: float) -> float:
        return fixed + (1 - fixed) * (1 - share) ** bend

    clock, asked = counted(seconds)
    found = smallest_share(clock, 1.0, wanted, 0.95)
    if seconds(0.95) > 1 - wanted:
        assert found is None
        return
    assert found is not None
    share, time = found
    assert time == seconds(share) <= 1 - wanted
    assert time >= 1 - wanted - NEAR or len(asked) >= MEASUREMENTS
    assert len(asked) <= 1 + MEASUREMENTS
    assert wanted - 1e-9 <= 1 - time


@given(shares, st.lists(st.floats(0.05, 1.5), min_size=20, max_size=20))
def test_whatever_a_clock_says_the_result_was_measured_and_is_within_reach(wanted: float, times: list[float]) -> None:
    known: list[tuple[float, float]] = []

    def clock(share: float) -> float:
        known.append((share, times[len(known) % len(times)]))
        return known[-1][1]

    found = smallest_share(clock, 1.0, wanted, 0.9)
    assert len(known) <= 2 * (1 + MEASUREMENTS)
    if found is not None:
        assert found in known
        assert 0 < found[0] <= 0.9
        assert found[1] <= 1 - wanted


def test_a_line_is_met_at_once() -> None:
    clock, asked = counted(lambda share: 1 - share)
    found = smallest_share(clock, 1.0, 0.5, 0.9)
    assert found is not None
    assert found[0] == pytest.approx(0.51, abs=1e-6)
    assert len(asked) == 2


def test_one_bad_measurement_is_not_believed() -> None:
    hiccup = iter([True])

    def seconds(share: float) -> float:
        return 5.0 if share < 0.9 and next(hiccup, False) else 1 - share

    found = smallest_share(seconds, 1.0, 0.5, 0.9)
    assert found is not None
    assert found[1] == pytest.approx(0.49, abs=1e-6)


def test_the_most_is_measured_twice_before_it_is_given_up() -> None:
    clock, asked = counted(lambda share: 0.9)
    assert smallest_share(clock, 1.0, 0.5, 0.9) is None
    assert asked == [0.9, 0.9]

from __future__ import annotations

from collections.abc import Mapping

import pytest

from compressor.errors import MeterError
from compressor.meters.base import energy_between
from compressor.meters.counter import Counter, CounterMeter, Ticks, watch_ticks
from compressor.results import MeterInfo


class Source:
    """A counter of 10 W in mJ that ticks every ``tick_s`` of simulated time."""

    def __init__(self, tick_s: float = 0.01, until_s: float = float("inf")) -> None:
        self.now, self.tick_s, self.until_s = 0.0, tick_s, until_s

    def clock(self) -> float:
        self.now += 1e-4
        return self.now

    def raw(self) -> int:
        return round(int(min(self.now, self.until_s) / self.tick_s + 1e-9) * self.tick_s * 10_000)

    def open(self, may_rest: bool = False) -> CounterMeter:
        info = MeterInfo("meter", ("part",), "measured", "board", self.tick_s, 1e-3, "a test")

        def read() -> Mapping[str, int]:
            return {"part": self.raw()}

        return CounterMeter(info, [Counter("part", 1e-3, None, 50.0, may_rest)], read, clock=self.clock)


def test_period_and_step_are_probed() -> None:
    source = Source(tick_s=0.01)
    assert watch_ticks(source.raw, 1.0, source.clock) == Ticks(pytest.approx(0.01, rel=0.02), 100)
    assert source.now < 0.3  # 25 changes are enough


def test_slow_counter_is_watched_for_longer() -> None:
    source = Source(tick_s=0.08)
    ticks = watch_ticks(source.raw, 0.05, source.clock)
    assert ticks is not None
    assert 0.07 < ticks.period_s < 0.11


def test_counter_that_never_moves_has_no_period() -> None:
    source = Source(until_s=0.0)
    assert watch_ticks(source.raw, 0.05, source.clock) is None
    assert source.now == pytest.approx(0.2, abs=0.01)


def test_wrap_is_not_taken_for_the_smallest_step() -> None:
    values = iter([90, 95, 100, 2, 7] + [7] * 100)
    source = Source()
    assert watch_ticks(lambda: next(values), 0.001, source.clock) == Ticks(pytest.approx(1e-4), 5)


def test_counter_without_range_needs_no_guard_and_may_not_fall() -> None:
    source = Source()
    meter = source.open()
    assert meter._guard is None
    start = meter.read()
    source.now += 3600.0
    assert energy_between(start, meter.read(), "meter") == pytest.approx({"meter/part": 36000.0}, rel=1e-3)
    source.now = 1.0
    with pytest.raises(MeterError, match=r"^meter: the counter part fell by 3\d+(\.\d+)? J: it was reset$"):
        meter.read()


def test_stillness_is_judged_by_the_update_period() -> None:
    source = Source(tick_s=0.01, until_s=5.0)
    meter, resting = source.open(), source.open(may_rest=True)
    source.now = 5.0
    meter.read()
    resting.read()
    source.now += 0.9  # less than 100 periods of 10 ms
    meter.read()
    source.now += 0.2
    with pytest.raises(MeterError, match=r"^meter: the counter part stands still for 1\.1 s$"):
        meter.read()
    with pytest.raises(MeterError, match="stands still"):
        meter.read()  # again, until it moves
    assert resting.read().epoch == 0
    source.until_s = 5.02  # it moves by a tick or two
    assert meter.read().epoch == 2


def scripted(*readings: tuple[float, int], counter: Counter, period_s: float = 0.001) -> CounterMeter:
    """A counter that is read at certain times and reads certain values."""
    times, values = iter([at for at, _ in readings]), iter([raw for _, raw in readings])
    info = MeterInfo("meter", ("part",), "measured", "board", period_s, 1e-3, "a test")
    return CounterMeter(info, [counter], lambda: {"part": next(values)}, clock=lambda: next(times), guard=False)


@pytest.mark.parametrize(
    ("raw", "limit", "said"),
    [
        (1001, 1000, "reads 1001, which is outside 0 to 1000"),
        (-1, 1000, "reads -1, which is outside 0 to 1000"),
        (-1, None, "reads -1, which is outside 0 to any number"),
    ],
)
def test_value_that_no_counter_has_is_refused(raw: int, limit: int | None, said: str) -> None:
    meter = scripted((0.0, 10), (0.01, raw), counter=Counter("part", 1e-3, limit, 5.0))
    with pytest.raises(MeterError) as caught:
        meter.read()
    assert str(caught.value) == f"meter: the counter part {said}"


def test_value_at_the_end_of_the_range_is_one() -> None:
    meter = scripted((0.0, 900), (0.01, 1000), (0.02, 0), counter=Counter("part", 1e-3, 1000, 20.0))
    assert meter.read().energy_j == {"part": pytest.approx(0.1)}
    assert meter.read().energy_j == {"part": pytest.approx(0.1)}


@pytest.mark.parametrize(("step_mj", "sound"), [(10_000, True), (15_000, False)])
def test_a_slow_counter_may_give_two_periods_at_once_and_no_more(step_mj: int, sound: bool) -> None:
    # At most 11 W, and two periods of half a second that it had not told before.
    meter = scripted((0.0, 0), (0.01, step_mj), counter=Counter("part", 1e-3, None, 11.0), period_s=0.5)
    if sound:
        assert meter.read().energy_j == {"part": pytest.approx(10.0)}
        return
    with pytest.raises(MeterError, match=r"jumped by 15 J in 0\.01 s, more than 11 W: it was reset or misread$"):
        meter.read()

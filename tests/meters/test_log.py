from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.errors import MeterError
from compressor.meters import log
from compressor.meters.base import MeterOptions, energy_between

T0 = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()


def csv_log(path: Path, *rows: tuple[object, ...], header: str = "timestamp,watts") -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def steady(path: Path, watts: float = 20.0, seconds: int = 60) -> Path:
    return csv_log(path, *((T0 + i, watts) for i in range(seconds)))


class Clocks:
    """Monotonic and UTC clock of the test; sleeping may write the next line of the log."""

    def __init__(self, utc: float) -> None:
        self.mono, self.ahead = 500.0, utc - 500.0
        self.on_sleep = lambda: None

    def utc(self) -> float:
        return self.mono + self.ahead

    def sleep(self, seconds: float) -> None:
        self.mono += seconds
        self.on_sleep()

    def open(self, path: Path) -> log.LogMeter:
        return log.LogMeter(path, lambda: self.mono, self.utc, self.sleep)


@pytest.mark.parametrize(
    "stamps",
    [
        ["2026-03-01T12:00:00Z", "2026-03-01T12:00:01Z", "2026-03-01T12:00:02Z"],
        ["2026-03-01T13:00:00+01:00", "2026-03-01T07:00:01-05:00", "2026-03-01 12:00:02+00:00"],
        [T0, T0 + 1, T0 + 2],
    ],
)
def test_stamps_are_aligned_on_utc(tmp_path: Path, stamps: list[object]) -> None:
    path = csv_log(tmp_path / "power.csv", *zip(stamps, (10, 20, 30), strict=True))
    # 10 to 20 W in the first second, half of it; then 20 to 30
    assert log.PowerLog(path).energy_over(T0 + 0.5, T0 + 1.5) == pytest.approx(17.5 / 2 + 22.5 / 2)


def test_json_lines_and_counted_joules(tmp_path: Path) -> None:
    path = tmp_path / "power.jsonl"
    lines = [{"timestamp": T0 + i, "joules": 1000 + 30 * i} for i in range(5)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert log.PowerLog(path).energy_over(T0 + 1, T0 + 3.5) == pytest.approx(75.0)


def test_reads_along_while_the_log_grows(tmp_path: Path) -> None:
    path = steady(tmp_path / "power.csv", seconds=10)
    clocks = Clocks(T0 + 9.0)
    meter = clocks.open(path)
    assert (meter.info.scope, meter.info.update_period_s) == ("machine", 1.0)
    start = meter.read()
    clocks.mono += 4.0  # T0 + 13: four seconds past the log's end

    def write_more() -> None:
        with path.open("a") as file:
            file.write("".join(f"{T0 + i},20\n" for i in range(10, 14)))
        clocks.on_sleep = lambda: None

    clocks.on_sleep = write_more
    end = meter.read()
    assert energy_between(start, end, "log") == pytest.approx({"log/machine": 80.0})
    assert end.time_s - start.time_s == pytest.approx(4.0)  # the waiting is not in the window


def test_half_written_line_waits_for_its_end(tmp_path: Path) -> None:
    path = steady(tmp_path / "power.csv", seconds=5)
    with path.open("a") as file:
        file.write(f"{T0 + 5},2")
    power = log.PowerLog(path)
    assert power.times[-1] == T0 + 4
    with path.open("a") as file:
        file.write("0\n")
    power.update()
    assert (power.times[-1], power.values[-1]) == (T0 + 5, 20.0)


def test_window_that_the_log_does_not_cover_is_rejected(tmp_path: Path) -> None:
    path = steady(tmp_path / "power.csv", seconds=10)
    with pytest.raises(MeterError) as caught:
        log.PowerLog(path).energy_over(T0 - 1, T0 + 5)
    assert str(caught.value) == (
        f"{path}: does not cover 2026-03-01T11:59:59.000Z: it goes from 2026-03-01T12:00:00.000Z to "
        "2026-03-01T12:00:09.000Z"
    )
    clocks = Clocks(T0 + 30)
    meter = clocks.open(path)
    with pytest.raises(MeterError, match=r"does not cover 2026-03-01T12:00:30.000Z"):
        meter.read()


def test_gap_rejects_the_window_across_it_and_only_that(tmp_path: Path) -> None:
    path = csv_log(tmp_path / "power.csv", *((T0 + i, 20) for i in range(60) if not 20 <= i < 30))
    power = log.PowerLog(path)
    with pytest.raises(MeterError) as caught:
        power.energy_over(T0 + 10, T0 + 40)
    assert str(caught.value) == (
        f"{path}: has a gap of 11 s at 2026-03-01T12:00:19.000Z, with a sample every 1 s elsewhere"
    )
    assert power.energy_over(T0 + 5, T0 + 15) == power.energy_over(T0 + 35, T0 + 45) == pytest.approx(200.0)

    growing = steady(tmp_path / "growing.csv", seconds=12)
    clocks = Clocks(T0 + 11)
    meter = clocks.open(growing)
    outer = meter.read()
    csv_log(growing, *((T0 + i, 20.0) for i in range(58) if not 20 <= i < 30))
    clocks.mono += 46
    with pytest.raises(MeterError, match="has a gap of 11 s"):
        meter.read()
    inner = meter.read()
    csv_log(growing, *((T0 + i, 20.0) for i in range(60) if not 20 <= i < 30))
    clocks.mono += 2
    end = meter.read()
    assert energy_between(inner, end, "log") == pytest.approx({"log/machine": 40.0})
    with pytest.raises(MeterError, match="lost count"):
        energy_between(outer, end, "log")


@pytest.mark.parametrize(
    ("rows", "line", "message"),
    [
        (
            [(T0, 1), (T0 + 2, 1), (T0 + 1, 1)],
            4,
            "goes back to 2026-03-01T12:00:01.000Z after 2026-03-01T12:00:02.000Z; sort the log by time, one per stamp",
        ),
        (
            [(T0, 1), (T0, 2)],
            3,
            "repeats 2026-03-01T12:00:00.000Z after 2026-03-01T12:00:00.000Z; sort the log by time, one per stamp",
        ),
        (
            [("2026-03-01T12:00:00", 1)],
            2,
            "'2026-03-01T12:00:00' is a local time without its zone; write 2026-03-01T12:00:00Z if it is UTC",
        ),
        ([("yesterday", 1)], 2, "'yesterday' is no ISO 8601 time and no Unix time"),
        ([(T0 * 1000, 1)], 2, f"'{T0 * 1000}' is no Unix time in s"),
        ([("nan", 1)], 2, "'nan' is no Unix time in s"),
        ([(T0, "n/a")], 2, "'n/a' is no number"),
        ([(T0, "")], 2, "'' is no number"),
        ([(T0, "inf")], 2, "'inf' is no number"),
        ([(T0, -4)], 2, "reads -4, less than nothing"),
        ([(T0, 1, 2)], 2, "has 3 columns where the header has 2"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, rows: list[tuple[object, ...]], line: int, message: str) -> None:
    path = csv_log(tmp_path / "power.csv", *rows)
    with pytest.raises(MeterError) as caught:
        log.PowerLog(path)
    assert str(caught.value) == f"{path}:{line}: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,power\n", "1: the header has power, time; it needs 'timestamp' and either 'watts' or 'joules'"),
        (
            "timestamp,watts,joules\n",
            "1: the header has joules, timestamp, watts; it needs 'timestamp' and either 'watts' or 'joules'",
        ),
        ('{"timestamp": 1\n', "1: is no JSON (Expecting ',' delimiter)"),
        ('{"watts": 3}\n', "1: the record has watts; it needs 'timestamp' and either 'watts' or 'joules'"),
    ],
)
def test_bad_header_or_record_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "power.log"
    path.write_text(text)
    with pytest.raises(MeterError) as caught:
        log.PowerLog(path)
    assert str(caught.value) == f"{path}:{message}"


def test_watts_and_joules_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "power.jsonl"
    path.write_text(
        '{"timestamp": 1769860800, "watts": 40}\n{"timestamp": 1769860801, "watts": 40}\n'
        '{"timestamp": 1769860802, "joules": 120034}\n'
    )
    with pytest.raises(MeterError) as caught:
        log.PowerLog(path)
    assert str(caught.value) == f"{path}:3: has watts and joules in turn; keep to one of them"


def test_joules_that_fall(tmp_path: Path) -> None:
    path = csv_log(tmp_path / "p.csv", (T0, 100), (T0 + 1, 50), header="timestamp,joules")
    with pytest.raises(MeterError) as caught:
        log.PowerLog(path)
    assert str(caught.value) == f"{path}:3: joules fall from 100 to 50; give the meter's count, which never falls"


@pytest.mark.parametrize(("skew", "word"), [(0.9, "ahead of"), (-0.9, "behind")])
def test_skew_that_the_logger_wrote_down(tmp_path: Path, skew: float, word: str) -> None:
    header = "timestamp,watts,host_time"
    fine = csv_log(tmp_path / "fine.csv", (T0, 1, T0 - 0.7), (T0 + 1, 1, T0 + 1.7), header=header)
    assert len(log.PowerLog(fine).times) == 2
    path = csv_log(tmp_path / "p.csv", (T0 + skew, 1, T0), header=header)
    with pytest.raises(MeterError) as caught:
        log.PowerLog(path)
    assert str(caught.value) == (
        f"{path}:2: the meter's clock is 0.9 s {word} this machine's; set both by NTP: at most 0.8 s are allowed"
    )


def test_log_from_the_future(tmp_path: Path) -> None:
    path = steady(tmp_path / "p.csv", seconds=10)
    with pytest.raises(MeterError) as caught:
        Clocks(T0 + 7.0).open(path).read()
    assert str(caught.value) == (
        f"{path}: the meter's clock is 2 s ahead of this machine's; set both by NTP: at most 0.8 s are allowed"
    )


def test_this_machines_clock_is_set_in_mid_run(tmp_path: Path) -> None:
    clocks = Clocks(T0 + 59)
    meter = clocks.open(steady(tmp_path / "p.csv"))
    meter.read()
    clocks.ahead -= 3.0
    with pytest.raises(MeterError, match=r"this machine's clock was set by -3 s$"):
        meter.read()


def test_too_short_missing_and_shrinking_logs(tmp_path: Path) -> None:
    with pytest.raises(MeterError) as caught:
        log.open_meter(str(tmp_path / "none.csv"), MeterOptions())
    assert str(caught.value) == f"{tmp_path}/none.csv: cannot be read (No such file or directory)"
    path = csv_log(tmp_path / "p.csv", (T0, 1), (T0 + 1, 1))
    with pytest.raises(MeterError) as caught:
        log.open_meter(str(path), MeterOptions())
    assert str(caught.value) == f"{path}: holds 2 samples where 3 are needed"
    meter = Clocks(T0 + 50).open(steady(path))
    path.write_text("timestamp,watts\n")
    with pytest.raises(MeterError, match="was cut or replaced while it was read"):
        meter.read()


@settings(max_examples=50, deadline=None)
@given(
    watts=st.lists(st.floats(0, 500), min_size=5, max_size=20),
    cuts=st.lists(st.floats(0, 1), min_size=3, max_size=6),
)
def test_energy_is_additive_over_windows(
    tmp_path_factory: pytest.TempPathFactory, watts: list[float], cuts: list[float]
) -> None:
    path = tmp_path_factory.mktemp("log") / "p.csv"
    power = log.PowerLog(csv_log(path, *((T0 + i, repr(w)) for i, w in enumerate(watts))))
    moments = sorted(T0 + cut * (len(watts) - 1) for cut in cuts)
    parts = [power.energy_over(a, b) for a, b in pairwise(moments)]
    assert all(part >= -1e-6 for part in parts)
    assert sum(parts) == pytest.approx(power.energy_over(moments[0], moments[-1]), abs=1e-6)

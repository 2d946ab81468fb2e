import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.report import numbers


@pytest.mark.parametrize(
    ("value", "unit", "interval", "shown"),
    [
        (0.00183, "J", (0.00179, 0.00187), "1.83 mJ [1.79, 1.87]"),
        (312.4e-6, "s", None, "312 µs"),
        (1_234_567, "B", None, "1.23 MB"),
        (97, "B", None, "97 B"),
        (0.9193, "fraction", (0.9138, 0.9244), "91.9 % [91.4, 92.4]"),
        (999.96e-6, "s", None, "1.00 ms"),
        (0.0, "J", None, "0.00 J"),
        (14.0, "W", (8.0, 20.0), "14 W [8, 20]"),
        (0.4, "J", (-3.0, 4.0), "400 mJ [−3 000, 4 000]"),
        (2.5, "kWh", None, "2.50 kWh"),
    ],
)
def test_a_quantity_has_the_digits_that_its_interval_supports(value, unit, interval, shown):
    assert numbers.with_interval(value, unit, interval) == shown
    assert numbers.quantity(value, unit, interval) == shown.split(" [")[0]


@pytest.mark.parametrize(
    ("ratio", "interval", "shown"),
    [
        (0.38, (0.36, 0.40), "62 % less [60, 64]"),
        (1.12, (1.09, 1.15), "12 % more [9, 15]"),
        (0.98, (0.95, 1.01), "2 % less [5 % less, 1 % more]"),
        (2.4, (2.3, 2.5), "2.40× as much [2.30, 2.50]"),
        (1.0, None, "the same"),
        (0.25, None, "75.0 % less"),
        (0.99, None, "1.0 % less"),
        (0.99, (0.98999, 0.99001), "1.00 % less [1.00, 1.00]"),
    ],
)
def test_a_change_is_said_in_words(ratio, interval, shown):
    assert numbers.change(ratio, interval) == shown


@pytest.mark.parametrize(
    ("ratio", "interval", "joined"),
    [(0.38, (0.36, 0.40), "than"), (1.12, None, "than"), (2.4, (2.3, 2.5), "as"), (1.0, None, "as")],
)
def test_what_is_compared_with_follows_the_words(ratio, interval, joined):
    assert numbers.joined(numbers.change(ratio, interval), "ONNX fp32") == f"{joined} ONNX fp32"


def test_speed_is_a_factor_unless_the_interval_holds_one():
    assert numbers.speed(0.36, (0.33, 0.39)) == "2.8× faster [2.6, 3.0]"
    assert numbers.speed(1.25, (1.2, 1.3)) == "1.25× slower [1.20, 1.30]"
    assert numbers.speed(0.97, (0.92, 1.02)) == "3 % less [8 % less, 2 % more]"


def test_a_loss_keeps_its_sign_and_says_points():
    assert numbers.loss(0.002, "fraction", (-0.001, 0.005)) == "0.2 points lost [−0.1, 0.5]"
    assert numbers.loss(-0.01, "fraction") == "1.00 points gained"
    assert numbers.loss(0.0, "fraction") == "no change"
    # An error is not lost where it grows.
    assert numbers.loss(58.0, "mg²", (50.0, 66.0)) == "58 mg² worse [50, 66]"
    assert numbers.loss(-0.5, "") == "0.500 better"
    assert numbers.margin(0.01, "fraction") == "1 point"
    assert numbers.margin(0.005, "fraction") == "0.5 points"


def test_counts_and_durations():
    assert numbers.count(12_400) == "12 400"
    assert numbers.count(3_140_000, (2_900_000, 3_400_000)) == "3.1 million [2.9, 3.4]"
    assert numbers.count(188_900, (181_000, 197_000)) == "189 000 [181 000, 197 000]"
    assert numbers.count(5e6, (4e6, math.inf)).endswith("∞]")
    assert numbers.duration(0.42) == "420 ms"
    assert numbers.duration(12.34) == "12.3 s"
    assert numbers.duration(125.2) == "2 min 5 s"
    assert numbers.duration(11_400) == "3 h 10 min"
    assert numbers.percent(0.0312) == "3.1 %"
    assert numbers.small(3e-6) == "3e-6"


@given(st.floats(1e-9, 1e9), st.floats(0.001, 0.5))
def test_what_is_shown_lies_within_half_the_last_digit_that_the_interval_supports(value, width):
    interval = (value * (1 - width), value * (1 + width))
    text = numbers.quantity(value, "J", interval)
    number, unit = text.rsplit(" ", 1)
    scale = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "m": 1e-3, "µ": 1e-6, "n": 1e-9}.get(unit.removesuffix("J"), 1)
    shown = float(number.replace(" ", "")) * scale
    # Rounding never moves the value by more than the half-width of its interval, nor by more than 0.05 % of itself
    # where four digits are the most that is shown.
    assert abs(shown - value) <= max(value * width, value * 6e-4)
    assert len([c for c in number if c.isdigit()]) <= 6

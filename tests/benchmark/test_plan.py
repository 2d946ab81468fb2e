"""Presets."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from compressor.benchmark.plan import LOAD_S, PRESETS, expected_s, make_plan, units_per_call
from compressor.errors import RecipeError
from compressor.results import Plan, Workload


@pytest.mark.parametrize(("preset", "low", "high"), [("quick", 30, 75), ("default", 120, 200)])
def test_presets_last_about_as_long_as_they_say_for_three_arms_and_the_control(
    preset: str, low: float, high: float
) -> None:
    assert low <= expected_s(make_plan(preset), arms=4) <= high


def test_what_is_asked_for_is_in_the_plan() -> None:
    assert make_plan() == replace(PRESETS["default"], batch=1, threads=1, seed=0)
    assert make_plan("quick", batch=8, threads=3, seed=5) == replace(PRESETS["quick"], batch=8, threads=3, seed=5)


def test_the_time_is_that_of_loads_windows_warm_ups_and_idling() -> None:
    plan = Plan("custom", 1, 1, blocks=4, window_s=1.5, idle_s=2.0, warmup_limit_s=8.0, seed=0)
    # 4 blocks of 2 arms, two windows each; warm-ups of an eighth of the limit, the first one longer; idle three times.
    assert expected_s(plan, arms=2) == pytest.approx(4 * 2 * (LOAD_S + 3.0) + 2 * 5 * 1.0 + 6.0)


def test_units_are_examples_or_tokens() -> None:
    plan = make_plan("quick", batch=4)
    assert units_per_call(plan) == 4
    assert units_per_call(replace(plan, workload=Workload("prefill", 100, 7))) == 400
    assert units_per_call(replace(plan, workload=Workload("decode", 100, 7))) == 28


def test_certify_has_ten_blocks_of_ten_second_windows() -> None:
    plan = make_plan("certify")
    assert plan.blocks >= 10
    assert plan.window_s >= 10


def test_no_preset_has_windows_under_a_second() -> None:
    assert all(plan.window_s >= 1 for plan in PRESETS.values())


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        make_plan("quik")
    assert str(caught.value) == "--preset: no preset 'quik'; did you mean 'quick'? known: certify, default, quick"


@pytest.mark.parametrize(("option", "message"), [("batch", "--batch: must be at least 1, not 0")])
def test_numbers_out_of_range(option: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make_plan(**{option: 0})
    assert str(caught.value) == message


def test_presets_are_those_that_the_documentation_tells() -> None:
    text = (Path(__file__).parents[2] / "docs" / "measurement.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `?(?:--)?(\w+)`? \| (\d+) \| ([\d.]+) s \| (\d+) min \|$", text, re.MULTILINE)
    told = {name: (int(blocks), float(window), int(minutes)) for name, blocks, window, minutes in rows}
    # Three arms and the control.
    assert told == {
        name: (plan.blocks, plan.window_s, round(expected_s(plan, arms=4) / 60)) for name, plan in PRESETS.items()
    }
    assert {plan.preset: (plan.idle_s, plan.warmup_limit_s) for plan in PRESETS.values()} == {
        "quick": (1.0, 4.0),
        "default": (2.0, 6.0),
        "certify": (10.0, 60.0),
    }

"""Presets."""

from __future__ import annotations

import pytest

from compressor.benchmark.plan import PRESETS, expected_s, make_plan
from compressor.errors import RecipeError


@pytest.mark.parametrize(("preset", "low", "high"), [("quick", 30, 75), ("default", 120, 200)])
def test_presets_last_about_as_long_as_they_say_for_three_arms_and_the_control(
    preset: str, low: float, high: float
) -> None:
    assert low <= expected_s(make_plan(preset), arms=4) <= high


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

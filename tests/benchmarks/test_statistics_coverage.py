"""The simulation's own arithmetic; what it finds is in its results."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.statistics_coverage import HARD, counted, hard, hard_case, there_and_back

ORDERS = np.array([[0, 1, 2], [2, 0, 1]])


def test_each_arm_gets_its_two_windows() -> None:
    windows = np.arange(12.0).reshape(2, 6)
    # There and back: every pair of windows lies around the same middle, so a linear drift falls on all alike.
    assert there_and_back(windows, ORDERS).tolist() == [[2.5, 8.5]] * 3
    windows[1, 2] += 6  # the first arm is the third to run in the second block
    assert there_and_back(windows, ORDERS).tolist() == [[2.5, 11.5], [2.5, 8.5], [2.5, 8.5]]


def test_a_counter_that_moves_often_tells_the_watts() -> None:
    draw = np.random.default_rng(0)
    found = counted(np.array([40.0, 40.0, 50.0]), ORDERS, 100_000, draw)
    assert found == pytest.approx(np.array([[40.0] * 2, [40.0] * 2, [50.0] * 2]), rel=0.01)


@pytest.mark.parametrize("kind", HARD.values())
def test_every_hard_case_is_around_its_truth(kind: str) -> None:
    draw = np.random.default_rng(1)
    (base, twin, cand), truth = hard(kind, 4000, draw, equal=False)
    apart = np.log(cand / base).mean() - np.log(twin / base).mean()
    # Idle power that is off by as much as it may be moves the ratio by more than the noise does.
    assert apart == pytest.approx(np.log(truth), abs=0.2 if kind == "above idle" else 0.02)
    assert set(hard_case(kind, 3, 3, 0)) == {"t_interval", "control_passed", "false_verdicts"}

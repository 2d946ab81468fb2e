from __future__ import annotations

import numpy as np
import pytest

from compressor.results import Score
from compressor.scoring import score_delta


def right(*values: int) -> Score:
    return Score("accuracy", sum(values) / len(values), "fraction", True, tuple(float(v) for v in values))


def test_accuracy_is_retained_lost_or_not_established() -> None:
    base = right(*[1] * 1900, *[0] * 100)
    kept = score_delta(base, right(*[1] * 1899, *[0] * 101), 0.01)
    assert (kept.verdict, kept.p_value) == ("retained", 1.0)
    assert kept.loss == pytest.approx(0.0005)
    assert score_delta(base, right(*[1] * 1800, *[0] * 200), 0.01).verdict == "lost"
    assert score_delta(base, right(*[1] * 1880, *[0] * 120), 0.01).verdict == "not established"


def test_error_metric_counts_the_other_way() -> None:
    draw = np.random.default_rng(0)
    errors = draw.random(500)
    base = Score("mse", float(errors.mean()), "squared", False, tuple(errors.tolist()))
    worse = Score("mse", float(errors.mean()) + 0.5, "squared", False, tuple((errors + 0.5).tolist()))
    found = score_delta(base, worse, 0.1)
    assert found.loss == pytest.approx(0.5)
    assert found.ci95 == pytest.approx((0.5, 0.5))
    assert found.verdict == "lost"
    assert score_delta(worse, base, 0.1).verdict == "retained"


def test_metric_without_values_per_example_has_no_interval() -> None:
    found = score_delta(Score("f1", 0.9, "fraction", True), Score("f1", 0.89, "fraction", True), 0.02)
    assert (found.ci95, found.verdict) == (None, "not established")
    assert found.reason == "f1 has no value per example, so its loss has no interval"


def test_wrong_answers_that_are_counted_are_not_taken_for_right_ones() -> None:
    """Errors of 0 and 1 of a metric of which less is better: the interval lies on the side of the loss."""
    before = Score("mae", 0.1, "", False, (0.0,) * 900 + (1.0,) * 100)
    after = Score("mae", 0.3, "", False, (0.0,) * 700 + (1.0,) * 300)
    found = score_delta(before, after, 0.05)
    assert found.ci95 is not None
    assert found.ci95[0] < found.loss < found.ci95[1]
    assert (round(found.loss, 9), found.verdict) == (0.2, "lost")
    assert score_delta(after, before, 0.05).verdict == "retained"


def test_an_identical_model_is_kept_within_no_margin_at_all() -> None:
    errors = Score("mse", 0.35, "", False, (0.1, 0.4, 0.55))
    found = score_delta(errors, errors, 0.0)
    assert (found.loss, found.ci95, found.verdict) == (0.0, (0.0, 0.0), "retained")


def test_an_interval_that_ends_at_the_margin_is_within_it() -> None:
    base, cand = right(*[1] * 180, *[0] * 20), right(*[1] * 150, *[0] * 50)
    low, high = score_delta(base, cand, 0.0).ci95 or (0.0, 0.0)
    assert 0 < low < high
    assert [score_delta(base, cand, margin).verdict for margin in (low - 1e-9, low, high)] == [
        "lost",
        "not established",
        "retained",
    ]


def test_scores_that_are_right_or_wrong_on_one_side_only_are_numbers() -> None:
    half = Score("accuracy", 0.5, "fraction", True, (0.5,) * 4)
    for pair in ((right(1, 1, 1, 0), half), (half, right(1, 1, 1, 0))):
        found = score_delta(*pair, 0.0)
        assert (found.reason, found.p_value) == ("4 pairs, t-interval of the differences", None)


def test_scores_of_other_examples_have_no_interval() -> None:
    found = score_delta(right(1, 1, 0), right(1, 1, 0, 1), 0.0)
    assert (found.ci95, found.verdict) == (None, "not established")

from __future__ import annotations

from compressor.results import Score
from compressor.scoring import score_delta


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

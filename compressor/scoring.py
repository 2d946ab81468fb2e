"""Two scores on the same examples: what was lost, its interval, and whether that is within the user's margin. Pure."""

from __future__ import annotations

from compressor import stats
from compressor.results import Score, ScoreDelta


def score_delta(baseline: Score, candidate: Score, max_loss: float) -> ScoreDelta:
    """Whether the score is kept within the user's margin, paired on the same examples.

    The verdict is on the interval of the loss: ``retained`` if all of it is within the margin, ``lost`` if all of it is
    beyond.

    Args:
        baseline: Score of the baseline.
        candidate: Score of the candidate on the same examples.
        max_loss: The margin, in the score's unit; 0 or more.

    Returns:
        The delta with its verdict and how it was reached.
    """
    sign = 1 if baseline.higher_is_better else -1
    loss = sign * (baseline.value - candidate.value)
    interval: stats.Interval | None = None
    p_value: float | None = None
    paired = (
        baseline.per_example is not None
        and candidate.per_example is not None
        and len(baseline.per_example) == len(candidate.per_example)
    )
    if not paired or baseline.per_example is None or candidate.per_example is None:
        how = f"{baseline.name} has no value per example, so its loss has no interval"
    elif set(baseline.per_example) | set(candidate.per_example) <= {0.0, 1.0}:
        # Of errors 0 is the right one.
        best = 1.0 if sign > 0 else 0.0
        right = [v == best for v in baseline.per_example], [v == best for v in candidate.per_example]
        _, interval = stats.paired_proportion_loss(*right)
        p_value = stats.mcnemar(*right)
        how = f"{len(right[0])} pairs, Bonett-Price interval, exact McNemar p = {p_value:.2g}"
    else:
        better, worse = (baseline, candidate) if sign > 0 else (candidate, baseline)
        _, interval = stats.difference_interval(better.per_example or (), worse.per_example or ())
        how = f"{len(baseline.per_example)} pairs, t-interval of the differences"
    if interval is None:
        verdict = "not established"
    elif interval[1] <= max_loss:
        verdict = "retained"
    elif interval[0] > max_loss:
        verdict = "lost"
    else:
        verdict = "not established"
    return ScoreDelta(
        metric=baseline.name,
        unit=baseline.unit,
        baseline=baseline.value,
        candidate=candidate.value,
        loss=loss,
        ci95=interval,
        max_loss=max_loss,
        p_value=p_value,
        verdict=verdict,  # type: ignore[arg-type]
        reason=how,
    )

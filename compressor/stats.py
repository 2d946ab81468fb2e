"""The statistics that verdicts rest on: pure functions of numbers.

The sample is the block, not the single inference: calls within a window share the clock, the caches and the
temperature, and would make any difference look certain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

Interval = tuple[float, float]
CONFIDENCE = 0.95


@cache  # a report asks for the same few of them hundreds of times, and scipy takes its time
def _t_quantile(confidence: float, freedom: float) -> float:
    """Half-width of Student's two-sided interval in standard errors."""
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, freedom))


def mean(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, Interval | None]:
    """Mean and Student's t-interval of it; the interval is ``None`` with fewer than two values.

    Raises:
        ValueError: No values.
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    count, centre = len(values), float(np.mean(values))
    if count < 2:
        return centre, None
    half = _t_quantile(confidence, count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return centre, (centre - half, centre + half)


def _logs(values: Sequence[float]) -> list[float]:
    if bad := [v for v in values if not (math.isfinite(v) and v > 0)]:
        raise ValueError(f"a ratio needs positive finite values, not {bad[0]!r}")
    return [math.log(v) for v in values]


def geometric_mean(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, Interval | None]:
    """Geometric mean and its t-interval on the logarithms.

    Args:
        values: One positive value per block.
        confidence: Coverage of the interval.

    Returns:
        The mean, and the interval (``None`` with fewer than two values).

    Raises:
        ValueError: No values, or one that is not positive and finite.
    """
    centre, interval = mean(_logs(values), confidence)
    return math.exp(centre), interval and (math.exp(interval[0]), math.exp(interval[1]))


def ratio_interval(
    baseline: Sequence[float], candidate: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, Interval | None]:
    """Ratio candidate/baseline over paired blocks: ``exp(mean(log(c / b)))`` with a t-interval on the log ratios.

    A percentile bootstrap of 5 to 10 blocks covers the truth in about 84 to 90 % where it claims 95 %; the t-interval
    on logs is used instead (``benchmarks/statistics_coverage.py`` shows both).

    Args:
        baseline: One positive value per block.
        candidate: The same blocks, in the same order.
        confidence: Coverage of the interval.

    Returns:
        The ratio, and the interval (``None`` with fewer than two blocks).

    Raises:
        ValueError: Different or zero numbers of blocks, or a value that is not positive and finite.
    """
    if len(baseline) != len(candidate):
        raise ValueError(f"pairs are needed, not {len(baseline)} and {len(candidate)} blocks")
    _logs(baseline), _logs(candidate)
    return geometric_mean([c / b for b, c in zip(baseline, candidate, strict=True)], confidence)


def unpaired_ratio_interval(
    baseline: Sequence[float], candidate: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, Interval | None]:
    """Ratio candidate/baseline of geometric means over blocks that have no partners, as those of separate runs.

    Welch's t-interval of the difference of the mean logarithms; the two sides need not scatter alike. Source: Welch,
    "The generalization of 'Student's' problem when several different population variances are involved", Biometrika 34
    (1947), with his approximate degrees of freedom.

    Args:
        baseline: One positive value per block, at least one.
        candidate: The same of the other run; the numbers of blocks may differ.
        confidence: Coverage of the interval.

    Returns:
        The ratio, and the interval (``None`` where either side has fewer than two blocks).

    Raises:
        ValueError: A side without blocks, or a value that is not positive and finite.
    """
    from scipy.stats import t

    if not baseline or not candidate:
        raise ValueError(f"both sides need blocks, not {len(baseline)} and {len(candidate)}")
    logs = np.asarray(_logs(baseline)), np.asarray(_logs(candidate))
    centre = float(logs[1].mean() - logs[0].mean())
    if min(len(baseline), len(candidate)) < 2:
        return math.exp(centre), None
    # squared standard errors of the two means
    parts = [float(x.var(ddof=1)) / len(x) for x in logs]
    half = 0.0
    if sum(parts) > 0:
        freedom = sum(parts) ** 2 / sum(p**2 / (len(x) - 1) for p, x in zip(parts, logs, strict=True))
        half = float(t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(sum(parts))
    return math.exp(centre), (math.exp(centre - half), math.exp(centre + half))


def difference_interval(
    minuend: Sequence[float], subtrahend: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, Interval | None]:
    """Mean of paired differences with its t-interval.

    Args:
        minuend: One value per block (or per example).
        subtrahend: The same, in the same order.
        confidence: Coverage of the interval.

    Returns:
        Mean of ``minuend - subtrahend``, and the interval (``None`` with fewer than two pairs).

    Raises:
        ValueError: Different or zero numbers of values.
    """
    if len(minuend) != len(subtrahend) or not minuend:
        raise ValueError(f"pairs are needed, not {len(minuend)} and {len(subtrahend)} values")
    return mean((np.asarray(minuend, float) - np.asarray(subtrahend, float)).tolist(), confidence)


def mcnemar(baseline_right: Sequence[bool], candidate_right: Sequence[bool]) -> float:
    """Exact two-sided McNemar test on the same examples.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947), in its exact binomial form.

    Args:
        baseline_right: Whether the baseline got each example right.
        candidate_right: Whether the candidate did, same order.

    Returns:
        The p-value of "both are wrong equally often"; 1 where they never disagree.
    """
    from scipy.stats import binomtest

    lost, won = _discordant(baseline_right, candidate_right)
    return 1.0 if lost + won == 0 else float(binomtest(lost, lost + won).pvalue)


def paired_proportion_loss(
    baseline_right: Sequence[bool], candidate_right: Sequence[bool], confidence: float = CONFIDENCE
) -> tuple[float, Interval]:
    """How much smaller the candidate's share of right answers is; the interval is sound at few discordant pairs.

    Source: Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data", Journal of Educational and Behavioral Statistics 37 (2012); recommended by Fagerland, Lydersen and
    Laake, Statistics in Medicine 33 (2014).

    Args:
        baseline_right: Whether the baseline got each example right; at least one example.
        candidate_right: Whether the candidate did, same order.
        confidence: Coverage of the interval.

    Returns:
        ``p_baseline - p_candidate`` and its interval.
    """
    from scipy.stats import norm

    count = len(baseline_right)
    lost, won = _discordant(baseline_right, candidate_right)
    share_lost, share_won = (lost + 1) / (count + 2), (won + 1) / (count + 2)
    centre = share_lost - share_won
    half = float(norm.ppf((1 + confidence) / 2)) * math.sqrt((share_lost + share_won - centre**2) / (count + 2))
    return (lost - won) / count, (max(centre - half, -1.0), min(centre + half, 1.0))


def _discordant(baseline_right: Sequence[bool], candidate_right: Sequence[bool]) -> tuple[int, int]:
    pairs = list(zip(baseline_right, candidate_right, strict=True))
    return sum(1 for b, c in pairs if b and not c), sum(1 for b, c in pairs if c and not b)


def settled(previous: float, current: float, tolerance: float = 0.02) -> bool:
    """Whether two successive warm-up windows agree within ``tolerance`` of the larger."""
    return math.isclose(current, previous, rel_tol=tolerance)

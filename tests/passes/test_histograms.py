from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compressor.passes.histograms import HALF_BINS, Histogram


def filled(values: np.ndarray) -> tuple[Histogram, tuple[float, float]]:
    span = float(values.min()), float(values.max())
    histogram = Histogram(max(abs(span[0]), abs(span[1])))
    for part in np.array_split(values, 7):
        histogram.add(part)
    return histogram, span


def test_counts_do_not_grow_with_the_values() -> None:
    histogram, _ = filled(np.random.default_rng(0).standard_normal(100_000))
    assert histogram.counts.shape == (2 * HALF_BINS,)
    assert histogram.counts.sum() == 100_000


def test_percentile_cuts_half_of_the_rest_at_each_end() -> None:
    values = np.random.default_rng(0).standard_normal(200_000)
    histogram, span = filled(values)
    low, high = histogram.percentile(99, span)
    bin_width = histogram.limit / HALF_BINS
    assert low == pytest.approx(np.quantile(values, 0.005), abs=2 * bin_width)
    assert high == pytest.approx(np.quantile(values, 0.995), abs=2 * bin_width)


def test_percentile_behind_a_relu_cuts_at_the_top_only() -> None:
    values = np.maximum(np.random.default_rng(0).standard_normal(200_000), 0)
    histogram, span = filled(values)
    low, high = histogram.percentile(99, span)
    assert low == 0
    assert high == pytest.approx(np.quantile(values, 0.99), abs=2 * histogram.limit / HALF_BINS)


@settings(max_examples=50, deadline=None)
@example([1.0, 1.0, 1.0, 1.0, -1.0], 51.0, "percentile")
@example([-1.0, -1.0, -1.0, -1.0, 1.0], 51.0, "percentile")
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=200),
    st.floats(50.1, 100),
    st.sampled_from(["percentile", "entropy"]),
)
def test_range_is_part_of_the_span_and_holds_zero(values: list[float], percent: float, how: str) -> None:
    histogram, span = filled(np.array(values))
    low, high = histogram.percentile(percent, span) if how == "percentile" else histogram.entropy(span)
    assert span[0] <= low
    assert high <= span[1]
    assert low <= max(span[0], 0)
    assert high >= min(span[1], 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=300), st.floats(60, 100))
def test_percentile_keeps_at_least_its_share(values: list[float], percent: float) -> None:
    array = np.array(values)
    histogram, span = filled(array)
    low, high = histogram.percentile(percent, span)
    slack = 1e-9 * max(1.0, histogram.limit)
    kept = np.mean((array >= low - slack) & (array <= high + slack))
    assert kept >= percent / 100 - 1e-9


def test_everything_is_kept_at_100_percent() -> None:
    values = np.random.default_rng(0).standard_normal(1000) * 3
    histogram, span = filled(values)
    assert histogram.percentile(100, span) == pytest.approx(span, abs=1e-12)


def test_entropy_cuts_a_lone_outlier_and_leaves_a_flat_distribution() -> None:
    rng = np.random.default_rng(0)
    histogram, span = filled(np.append(rng.standard_normal(100_000), 60.0))
    low, high = histogram.entropy(span)
    assert -8 < low < -2
    assert 3 < high < 20
    flat, span = filled(rng.uniform(-1, 1, 200_000))
    low, high = flat.entropy(span)
    assert low < -0.9
    assert high > 0.9


def test_activation_that_is_all_zero_keeps_its_span() -> None:
    histogram, span = filled(np.zeros(10))
    assert histogram.percentile(99, span) == histogram.entropy(span) == (0, 0)

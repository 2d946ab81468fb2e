"""Statistics against closed forms, published examples and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from compressor import stats

positive = st.floats(1e-6, 1e6)


def test_mean_has_a_t_interval() -> None:
    values = [3.0, 4.0, 5.5, 4.2]
    expected = reference.ttest_1samp(values, 0).confidence_interval(0.95)
    assert stats.mean(values) == (pytest.approx(4.175), pytest.approx((expected.low, expected.high)))
    assert stats.mean([2.0]) == (2.0, None)
    with pytest.raises(ValueError, match="a mean needs at least one value"):
        stats.mean([])


def test_ratio_is_the_geometric_mean_of_paired_ratios() -> None:
    ratio, interval = stats.ratio_interval([1.0, 2.0, 4.0], [0.5, 1.0, 2.0])
    assert ratio == pytest.approx(0.5)
    assert interval == pytest.approx((0.5, 0.5))


def test_ratio_interval_agrees_with_scipy_on_logs() -> None:
    draw = np.random.default_rng(0)
    base, cand = draw.lognormal(0, 0.1, 8), draw.lognormal(-0.5, 0.1, 8)
    logs = np.log(cand / base)
    expected = reference.ttest_1samp(logs, 0).confidence_interval(0.95)
    _, interval = stats.ratio_interval(base.tolist(), cand.tolist())
    assert interval == pytest.approx((math.exp(expected.low), math.exp(expected.high)))


def test_one_block_gives_a_ratio_without_an_interval() -> None:
    assert stats.ratio_interval([2.0], [1.0]) == (0.5, None)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_ratio_refuses_what_is_not_positive_and_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="positive finite"):
        stats.ratio_interval([1.0, 1.0], [1.0, bad])
    with pytest.raises(ValueError, match="positive finite"):
        stats.ratio_interval([1.0, bad], [1.0, 1.0])


def test_ratio_refuses_unpaired_blocks() -> None:
    with pytest.raises(ValueError, match="3 and 2 blocks"):
        stats.ratio_interval([1.0, 1.0, 1.0], [1.0, 1.0])


@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=12))
def test_swapping_the_arms_inverts_ratio_and_interval(pairs: list[tuple[float, float]]) -> None:
    base, cand = [b for b, _ in pairs], [c for _, c in pairs]
    ratio, interval = stats.ratio_interval(base, cand)
    inverse, inverted = stats.ratio_interval(cand, base)
    assert interval is not None
    assert inverted is not None
    assert ratio * inverse == pytest.approx(1, rel=1e-6)
    assert interval[0] <= ratio * (1 + 1e-9)
    assert ratio <= interval[1] * (1 + 1e-9)
    # On logs: an interval of nearly contradictory pairs reaches further than a float can hold.
    assert math.log(max(interval[0], 1e-300)) == pytest.approx(-math.log(min(inverted[1], 1e300)), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("noise", [0.03, 0.10])
@pytest.mark.parametrize("truth", [0.6, 1.0, 1.1])
@pytest.mark.parametrize("blocks", [5, 10, 20])
def test_interval_covers_the_truth_as_often_as_it_claims(noise: float, truth: float, blocks: int) -> None:
    # 2 000 simulated runs; 93-97 % is about four standard errors around 95 %.
    draw = np.random.default_rng(blocks * 1000 + round(truth * 100) + round(noise * 1000))
    covered = 0
    for _ in range(2000):
        shared = draw.lognormal(0, 0.2, blocks)  # what a block does to both arms: temperature, clock
        base = shared * draw.lognormal(0, noise, blocks)
        cand = shared * truth * draw.lognormal(0, noise, blocks)
        _, interval = stats.ratio_interval(base.tolist(), cand.tolist())
        assert interval is not None
        covered += interval[0] <= truth <= interval[1]
    assert 0.93 <= covered / 2000 <= 0.97


def test_mcnemar_is_the_exact_binomial_test() -> None:
    base = [True] * 12 + [False] * 3 + [True] * 85
    cand = [False] * 12 + [True] * 3 + [True] * 85
    assert stats.mcnemar(base, cand) == pytest.approx(0.03515625)  # 2 * sum C(15, k), k <= 3, / 2**15
    assert stats.mcnemar(base, base) == 1.0


def test_paired_loss_reproduces_a_published_example() -> None:
    # Fagerland, Lydersen and Laake (2014), airway hyper-responsiveness: pairs (1, 1, 7, 12), Bonett-Price interval.
    base = [True] * 1 + [True] * 1 + [False] * 7 + [False] * 12
    cand = [True] * 1 + [False] * 1 + [True] * 7 + [False] * 12
    loss, interval = stats.paired_proportion_loss(base, cand)
    assert loss == pytest.approx(-6 / 21)
    assert interval == pytest.approx((-0.508, -0.013), abs=5e-4)


def test_paired_loss_is_uncertain_even_when_no_answer_changed() -> None:
    loss, (low, high) = stats.paired_proportion_loss([True] * 90 + [False] * 10, [True] * 90 + [False] * 10)
    assert loss == 0
    assert low < 0 < high


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=300))
def test_paired_loss_is_antisymmetric_and_inside_its_interval(pairs: list[tuple[bool, bool]]) -> None:
    base, cand = [b for b, _ in pairs], [c for _, c in pairs]
    loss, (low, high) = stats.paired_proportion_loss(base, cand)
    back, (back_low, back_high) = stats.paired_proportion_loss(cand, base)
    assert loss == pytest.approx(-back)
    assert (low, high) == pytest.approx((-back_high, -back_low), abs=1e-9)
    assert low - 1e-12 <= loss <= high + 1e-12


def test_paired_loss_covers_the_truth() -> None:
    draw = np.random.default_rng(7)
    covered = 0
    for _ in range(1000):
        base = draw.random(400) < 0.92
        cand = np.where(draw.random(400) < 0.03, draw.random(400) < 0.5, base)
        truth = 0.92 - (0.97 * 0.92 + 0.03 * 0.5)
        _, (low, high) = stats.paired_proportion_loss(base.tolist(), cand.tolist())
        covered += low <= truth <= high
    assert 0.93 <= covered / 1000 <= 0.99


def test_difference_interval_agrees_with_scipy() -> None:
    a, b = [3.0, 4.0, 5.5, 4.2], [2.0, 2.5, 4.0, 2.2]
    expected = reference.ttest_rel(a, b).confidence_interval(0.95)
    mean, interval = stats.difference_interval(a, b)
    assert mean == pytest.approx(np.mean(np.subtract(a, b)))
    assert interval == pytest.approx((expected.low, expected.high))


def test_settled_is_relative() -> None:
    assert stats.settled(1.00, 1.02)
    assert not stats.settled(1.00, 1.03)


def test_unpaired_ratio_is_welch_on_logs() -> None:
    draw = np.random.default_rng(3)
    base, cand = draw.lognormal(0, 0.1, 6), draw.lognormal(-0.5, 0.3, 9)
    expected = reference.ttest_ind(np.log(cand), np.log(base), equal_var=False).confidence_interval(0.95)
    ratio, interval = stats.unpaired_ratio_interval(base.tolist(), cand.tolist())
    assert ratio == pytest.approx(math.exp(np.log(cand).mean() - np.log(base).mean()))
    assert interval == pytest.approx((math.exp(expected.low), math.exp(expected.high)))


def test_unpaired_ratio_without_scatter_is_exact_and_one_block_has_no_interval() -> None:
    assert stats.unpaired_ratio_interval([2.0, 2.0], [1.0, 1.0, 1.0]) == (0.5, (0.5, 0.5))
    assert stats.unpaired_ratio_interval([2.0], [1.0, 1.0]) == (0.5, None)
    assert stats.unpaired_ratio_interval([2.0, 2.0], [1.0]) == (0.5, None)


def test_unpaired_ratio_refuses_an_empty_side_and_bad_values() -> None:
    with pytest.raises(ValueError, match="both sides need blocks, not 0 and 1"):
        stats.unpaired_ratio_interval([], [1.0])
    with pytest.raises(ValueError, match="positive finite"):
        stats.unpaired_ratio_interval([1.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize(("blocks", "noise"), [((5, 5), (0.03, 0.1)), ((5, 12), (0.1, 0.03)), ((12, 12), (0.1, 0.1))])
def test_unpaired_interval_covers_the_truth_though_the_sides_scatter_differently(
    blocks: tuple[int, int], noise: tuple[float, float]
) -> None:
    draw = np.random.default_rng(blocks[1])
    covered = 0
    for _ in range(2000):
        base, cand = draw.lognormal(0, noise[0], blocks[0]), draw.lognormal(math.log(0.9), noise[1], blocks[1])
        _, interval = stats.unpaired_ratio_interval(base.tolist(), cand.tolist())
        assert interval is not None
        covered += interval[0] <= 0.9 <= interval[1]
    assert 0.93 <= covered / 2000 <= 0.97

"""Rank correlation against SciPy, and its interval against the jackknife and the bootstrap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from compressor.errors import DataError
from compressor.scoring import score_delta
from compressor.task.metrics import metric
from compressor.task.ranks import spearman, spearman_parts

RANDOM = np.random.default_rng(0)
GRADES = RANDOM.integers(0, 6, 200).astype(float)  # as in STS: many equal ones
CLOSE = GRADES + RANDOM.standard_normal(200)
FAR = CLOSE + RANDOM.standard_normal(200)


def test_it_is_scipys_with_ties_too():
    for outputs in (CLOSE, FAR, np.round(CLOSE), -CLOSE):
        assert spearman(GRADES, outputs) == pytest.approx(spearmanr(GRADES, outputs).statistic, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30))
def test_its_parts_average_to_it(pairs):
    x, y = np.array(pairs, float).T
    if len(set(x)) > 1:
        assert spearman_parts(x, y).mean() == pytest.approx(spearman(x, y), abs=1e-9)


def test_its_parts_scatter_as_the_jackknife_says():
    keep = ~np.eye(200, dtype=bool)
    without = np.array([spearman(GRADES[rows], CLOSE[rows]) for rows in keep])
    jackknife = 200 * spearman(GRADES, CLOSE) - 199 * without
    assert np.corrcoef(spearman_parts(GRADES, CLOSE), jackknife)[0, 1] > 0.999
    assert spearman_parts(GRADES, CLOSE).std() == pytest.approx(jackknife.std(), rel=0.03)


def test_loss_has_the_interval_of_a_paired_bootstrap():
    scored = metric("spearman")
    found = score_delta(scored.score(GRADES, CLOSE[:, None]), scored.score(GRADES, FAR[:, None]), 0.01)
    draws = RANDOM.integers(0, 200, (200, 200))
    losses = [spearman(GRADES[rows], CLOSE[rows]) - spearman(GRADES[rows], FAR[rows]) for rows in draws]
    assert found.loss == pytest.approx(spearman(GRADES, CLOSE) - spearman(GRADES, FAR))
    assert found.ci95 == pytest.approx(np.quantile(losses, [0.025, 0.975]), abs=0.025)
    assert found.verdict == "lost"


def test_nothing_to_put_in_order():
    with pytest.raises(DataError) as error:
        spearman(np.ones(4), np.arange(4.0))
    assert str(error.value) == "spearman: is not defined for test targets that are all the same"
    assert metric("spearman").score(np.arange(4.0), np.ones(4)).value == 0
    with pytest.raises(DataError, match=r"^spearman: needs one number per example, and the targets are \(N, 2\)$"):
        metric("spearman").check(np.zeros((4, 2)), None)

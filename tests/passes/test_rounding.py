from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compressor.passes.rounding import quantize_symmetric


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 6)), elements=st.floats(-1e4, 1e4, width=32)),
    st.booleans(),
)
def test_weight_of_a_product_moves_by_at_most_half_a_scale(weight: np.ndarray, reduce_range: bool) -> None:
    levels, scale = quantize_symmetric(weight, reduce_range)
    assert np.abs(levels.astype(int)).max() <= (64 if reduce_range else 127)
    assert scale.shape == (weight.shape[1],)
    error = np.abs(levels * scale - weight)
    assert np.all(error <= scale / 2 * (1 + 1e-4) + 1e-30)
    # One scale for all is no smaller, so neither is the bound. (A single weight may still be luckier with it.)
    _, whole = quantize_symmetric(weight[None], reduce_range)
    assert whole.shape == ()
    assert np.all((scale <= whole) | (np.abs(weight).max(axis=0) == 0))

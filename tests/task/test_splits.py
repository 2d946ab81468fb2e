import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compressor.task.splits import draw, row_digests

RANDOM = np.random.default_rng(1)


@given(st.integers(1, 60), st.data(), st.integers(0, 99))
def test_a_draw_parts_what_there_is(total, data, seed):
    count = data.draw(st.integers(1, total))
    labels = data.draw(st.none() | st.just(np.arange(total) % 3))
    drawn, others, _ = draw(count, total, labels, seed)
    assert len(drawn) == count
    assert sorted([*drawn, *others]) == list(range(total))
    assert np.array_equal(drawn, np.sort(drawn))


def test_classes_stay_in_proportion():
    labels = np.repeat([0, 1], [90, 10])
    drawn, _, stratified = draw(20, 100, labels, 0)
    assert stratified
    assert np.bincount(labels[drawn]).tolist() == [18, 2]


def test_classes_that_are_too_few_are_not_kept_in_proportion():
    assert draw(2, 10, np.array([0] * 9 + [1]), 0)[2] is False
    assert draw(2, 12, np.arange(12) % 3, 0)[2] is False
    assert draw(5, 12, None, 0)[2] is False


def test_the_seed_decides():
    assert np.array_equal(draw(10, 100, None, 4)[0], draw(10, 100, None, 4)[0])
    assert not np.array_equal(draw(10, 100, None, 4)[0], draw(10, 100, None, 5)[0])


def test_equal_rows_have_equal_digests_and_others_do_not():
    x = RANDOM.integers(0, 256, (50, 3, 4)).astype(np.float32)
    y = x[::-1].copy(order="F")
    assert np.array_equal(row_digests((x,)), row_digests((y,))[::-1])
    assert len(np.unique(row_digests((x,)))) == 50


def test_all_inputs_count():
    a, b = np.zeros((2, 3)), np.array([[0], [1]])
    assert len(np.unique(row_digests((a,)))) == 1
    assert len(np.unique(row_digests((a, b)))) == 2


def test_rows_of_single_numbers():
    assert len(np.unique(row_digests((np.array([1.0, 2.0, 1.0]),)))) == 2

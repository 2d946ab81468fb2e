from __future__ import annotations

import numpy as np
import pytest

from compressor.errors import DataError
from compressor.model.base import Arrays
from compressor.results import TensorSpec
from compressor.runtimes.batching import predict


class Recorder:
    """Adds its two inputs and remembers the batch of every call."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, inputs: Arrays) -> tuple[np.ndarray, ...]:
        self.calls.append(len(inputs[0]))
        return (inputs[0] + inputs[1],)


def specs(batch: int | None) -> tuple[TensorSpec, ...]:
    return (TensorSpec("a", "float32", (batch, 3)), TensorSpec("b", "float32", (batch, 3)))


@pytest.mark.parametrize(
    ("batch", "count", "calls"), [(None, 7, [7]), (4, 4, [4]), (4, 7, [4, 4]), (4, 1, [4]), (4, 9, [4, 4, 4])]
)
def test_a_fixed_batch_is_filled_up_and_cut_again(batch: int | None, count: int, calls: list[int]) -> None:
    a = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    run = Recorder()
    np.testing.assert_array_equal(predict(run, specs(batch), (a, a)), a * 2)
    assert run.calls == calls


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((np.zeros((2, 3), np.float32),), "the model takes 2 inputs and was given 1"),
        (
            (np.zeros((2, 3), np.float32), np.zeros((2, 3))),
            "input 'b': takes float32 and was given float64",
        ),
        (
            (np.zeros((2, 4), np.float32), np.zeros((2, 3), np.float32)),
            "input 'a': takes (any, 3) and was given (2, 4)",
        ),
        (
            (np.zeros((2, 3, 1), np.float32), np.zeros((2, 3), np.float32)),
            "input 'a': takes (any, 3) and was given (2, 3, 1)",
        ),
    ],
)
def test_inputs_that_do_not_fit(arrays: Arrays, message: str) -> None:
    with pytest.raises(DataError) as caught:
        predict(Recorder(), specs(None), arrays)
    assert str(caught.value) == message

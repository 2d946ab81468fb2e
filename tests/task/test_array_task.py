import numpy as np
import pytest

from compressor.errors import DataError
from compressor.results import TaskSummary
from compressor.task.array_task import ArrayTask
from compressor.task.base import Examples
from compressor.task.metrics import metric

X = np.arange(10, dtype=np.float32)[:, None]
Y = (np.arange(10) > 4).astype(np.int64)


def task(name="accuracy", targets=Y):
    summary = TaskSummary("data", name, False, 2, 10)
    return ArrayTask(summary, metric(name), Examples(X[:2] - 9, Y[:2]), None, Examples((X,), targets))


def test_one_pass_in_batches():
    seen = []

    def predict(inputs):
        seen.append(inputs[0][:, 0].tolist())
        return inputs[0] - 3.5  # above 0 from example 4 on

    score = task().evaluate(predict, batch=4)
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert score.value == 0.9
    assert score.per_example == (1, 1, 1, 1, 0, 1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (
            lambda inputs: np.where(inputs[0] == 7, np.nan, 1.0),
            "data: the model's output for test example 7 is NaN or infinite",
        ),
        (
            lambda inputs: np.zeros((3, 2)),
            "data: the model's output is (9, 2) for 10 test examples; its first axis must count the examples",
        ),
        (
            lambda inputs: np.zeros((len(inputs[0]), 2, 2)),
            "accuracy: needs one score per class, (N, C), and the model's output is (N, 2, 2); "
            "score it with a metric of your own: --metric file.py:callable",
        ),
    ],
)
def test_outputs_that_cannot_be_scored(predict, message):
    with pytest.raises(DataError) as error:
        task().evaluate(predict, batch=4)
    assert str(error.value) == message


def test_without_targets():
    with pytest.raises(DataError) as error:
        task("agreement", None).evaluate(lambda inputs: inputs[0])
    assert str(error.value) == (
        "data: has no targets, and the original model's outputs were not given to stand for them"
    )

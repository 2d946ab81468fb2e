"""ArrayTask: a task whose examples are arrays in memory (or mapped from a file)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressor.errors import DataError
from compressor.results import Score, TaskSummary, TensorSpec
from compressor.task.base import Examples, Predict, predict_all
from compressor.task.fit import first_not_finite
from compressor.task.metrics import Metric
from compressor.task.views import Scoring, viewed


@dataclass(frozen=True, eq=False)
class ArrayTask:
    """Data and score over arrays.

    Attributes:
        summary: What the report says of the data and the metric.
        metric: How outputs are scored.
        calibration_examples: What a method may look at.
        training_examples: What a method may train on; ``None`` where the data have no such part.
        test_examples: What is scored. Without targets it must first be given the original model's outputs, see
            :func:`compressor.task.synthetic.with_reference`.
        notes: What was done to the data, one sentence each.
        scoring: What of the output is scored; ``None`` for the first output as it is.
        class_names: Names by class number; empty where they have none.
        columns: Names of the columns of a table's inputs; empty for other data.
    """

    summary: TaskSummary
    metric: Metric
    calibration_examples: Examples
    training_examples: Examples | None
    test_examples: Examples
    notes: tuple[str, ...] = ()
    scoring: Scoring | None = None
    class_names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def calibration(self) -> Examples:
        """Examples that a method may look at; none of them is in :meth:`test`."""
        return self.calibration_examples

    def training(self) -> Examples | None:
        """Examples that a method may train on; ``None`` where the data have no such part."""
        return self.training_examples

    def test(self) -> Examples:
        """Examples that the score is computed on."""
        return self.test_examples

    def evaluate(self, predict: Predict, batch: int = 256) -> Score:
        """Score a model on the whole of :meth:`test`, in one pass over it.

        Args:
            predict: The model; it is given batches of at most ``batch`` examples.
            batch: Examples per call.

        Returns:
            The score, with one value per example where the metric is an average of such.

        Raises:
            DataError: There are no targets, or the outputs do not fit the metric or are not finite.
        """
        targets, name = self.test_examples.targets, self.summary.name
        if targets is None:
            raise DataError(
                "has no targets, and the original model's outputs were not given to stand for them", where=name
            )
        outputs = np.asarray(predict_all(viewed(predict, self.scoring), self.test_examples.inputs, batch))
        if outputs.ndim == 0 or len(outputs) != len(targets):
            raise DataError(
                f"the model's output is {outputs.shape} for {len(targets)} test examples",
                where=name,
                mend="its first axis must count the examples",
            )
        if (row := first_not_finite(outputs)) is not None:
            raise DataError(f"the model's output for test example {row} is NaN or infinite", where=name)
        self.metric.check(targets, TensorSpec("output", outputs.dtype.name, outputs.shape))
        return self.metric.score(targets, outputs)

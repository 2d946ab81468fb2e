"""The Task: examples to calibrate on, examples to score on, and how to score.

A task sees arrays only, so torch, ONNX and any other runtime are scored by the same code on the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from compressor.model.base import Arrays
from compressor.results import Score, TaskSummary

Predict = Callable[[Arrays], NDArray[np.generic]]
"""From the inputs of a batch to the model's first output, ``(batch, …)``."""


@dataclass(frozen=True)
class Examples:
    """Some examples.

    Attributes:
        inputs: One array per model input, ``(N, …)`` each.
        targets: ``(N,)`` or ``(N, …)``; ``None`` where there are none.
        texts: What a reader would know each example by, ``(N,)``; empty where there is no such text.
    """

    inputs: Arrays
    targets: NDArray[np.generic] | None
    texts: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.inputs[0])


class Task(Protocol):
    """Data and score."""

    @property
    def summary(self) -> TaskSummary:
        """What the report says of the data and the metric."""

    def calibration(self) -> Examples:
        """Examples that a method may look at; none of them is in :meth:`test`."""

    def training(self) -> Examples | None:
        """Examples that a method may train on; ``None`` where the data have no such part."""

    def test(self) -> Examples:
        """Examples that the score is computed on and that the benchmark runs."""

    def evaluate(self, predict: Predict, batch: int = 256) -> Score:
        """Score a model on the whole of :meth:`test`.

        Args:
            predict: The model; it is given batches of at most ``batch`` examples.
            batch: Examples per call.

        Returns:
            The score, with one value per example where the metric has one.

        Raises:
            DataError: The outputs do not fit the metric, or are not finite.
        """


def predict_all(predict: Predict, inputs: Arrays, batch: int) -> NDArray[np.generic]:
    """Run every example through a model, ``batch`` at a time.

    Args:
        predict: The model.
        inputs: One array per model input, ``(N, …)`` each.
        batch: Examples per call.

    Returns:
        The first outputs of all examples, ``(N, …)``.
    """
    count = len(inputs[0])
    return np.concatenate([predict(tuple(x[i : i + batch] for x in inputs)) for i in range(0, count, batch)])

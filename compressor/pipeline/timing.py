"""How long a call of a model takes in the form in which it will be run, for methods that aim at a time."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compressor.passes.payoff import Stopwatch
from compressor.task.base import Task

if TYPE_CHECKING:
    from compressor.model.base import Arrays, TorchModel


class CallTimer:
    """Seconds of a call of PyTorch models, exported to ONNX and run by ONNX Runtime.

    The first model that is timed is the measure of all others: each is timed against it by turns, so that a machine
    that becomes busier in between slows both.

    Args:
        task: Its calibration examples are run; without any, the model's own example is.
        folder: Where the exported models are put.
        batch: Examples per call.
        threads: Threads of one call.
    """

    def __init__(self, task: Task, folder: Path, *, batch: int, threads: int) -> None:
        self._task, self._folder, self._batch, self._threads = task, folder, batch, threads
        self._first: tuple[Path, float] | None = None

    def __call__(self, model: TorchModel) -> float:
        """Time a model.

        Raises:
            ExportError: It cannot become ONNX.
        """
        from compressor.export import export_onnx

        watch = Stopwatch(self._feed(model), self._threads)
        if self._first is None:
            path = Path(tempfile.mkdtemp(prefix="timed.", dir=self._folder)) / "first.onnx"
            export_onnx(model, path)
            self._first = path, watch.seconds(path)
            return self._first[1]
        with tempfile.TemporaryDirectory(prefix="timed.", dir=self._folder) as folder:
            path = Path(folder) / "other.onnx"
            export_onnx(model, path)
            return self._first[1] * watch.heat(self._first[0], path)

    def _feed(self, model: TorchModel) -> Arrays:
        examples = self._task.calibration()
        inputs = examples.inputs if examples.inputs and len(examples) else _numpy(model)
        return tuple(x[np.arange(self._batch) % len(x)] for x in inputs)


def _numpy(model: TorchModel) -> Arrays:
    return tuple(tensor.numpy() for tensor in model.example_inputs)

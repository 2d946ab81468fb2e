"""scikit-learn's digits (real handwriting, 8×8) and small models trained on them, for the tests of training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from compressor.model.base import TorchModel
from compressor.passes.base import Context
from compressor.results import ModelSummary, Score, TaskSummary, TensorSpec
from compressor.task.base import Examples, Predict


@dataclass(frozen=True)
class Digits:
    """A task; whoever looks at the test examples or the score fails."""

    train: Examples | None
    calibrate: Examples
    metric: str = "accuracy"

    @property
    def summary(self) -> TaskSummary:
        return TaskSummary("digits", self.metric, False, len(self.calibrate), 0)

    def calibration(self) -> Examples:
        return self.calibrate

    def training(self) -> Examples | None:
        return self.train

    def test(self) -> Examples:
        raise AssertionError("a method must not look at the test examples")

    def evaluate(self, predict: Predict, batch: int = 256) -> Score:
        raise AssertionError("a method must not score itself")


@cache
def arrays() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """1797 pictures ``(N, 1, 8, 8)`` in [0, 1] and their classes, shuffled."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    return (found.data / 16).astype(np.float32).reshape(-1, 1, 8, 8)[order], found.target.astype(np.int64)[order]


def task(examples: int = 1200, metric: str = "accuracy") -> Digits:
    """The first pictures to train on, 100 more to calibrate on; the last 400 are nobody's but the test's."""
    x, y = arrays()
    return Digits(Examples((x[:examples],), y[:examples]), Examples((x[1200:1300],), None), metric)


def context(task: Digits, workdir: Path | None = None, teacher: TorchModel | None = None, seed: int = 0) -> Context:
    return Context(task, seed, 1, ("avx512f", "avx512_vnni"), workdir, teacher=teacher)


def accuracy(module: nn.Module) -> float:
    """On the last 400 pictures."""
    x, y = arrays()
    with torch.no_grad():
        found = module(torch.from_numpy(x[-400:]))
    return float((found.argmax(1).numpy() == y[-400:]).mean())


def wrap(module: nn.Module, shape: tuple[int, ...] = (1, 8, 8), batch: int | None = None) -> TorchModel:
    """A model as it comes out of the loader."""
    specs = (TensorSpec("x", "float32", (batch, *shape)),)
    summary = ModelSummary("digits", "digits.pt", "state dict", "0" * 64, 1, None, specs)
    example = torch.from_numpy(arrays()[0][: batch or 2].copy()).reshape(-1, *shape)
    module.requires_grad_(False)
    return TorchModel("digits", module.eval(), (example,), specs, summary)


def exported(model: TorchModel) -> TorchModel:
    """The same as an exported program's graph, whose train() and eval() refuse."""
    from dataclasses import replace

    from compressor.tracing import trace

    graph = trace(model).module(check_guards=False)
    graph.training = False
    return replace(model, module=graph.requires_grad_(False))


class Net(nn.Module):
    """Convolutions with batch norms and a linear head."""

    def __init__(self, width: int = 8, depth: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)) for _ in range(depth))
        )
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(self.drop(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)))


def net(width: int = 8, depth: int = 1, classes: int = 10, seed: int = 0) -> TorchModel:
    """Fresh weights."""
    torch.manual_seed(seed)
    return wrap(Net(width, depth, classes))


def digest(model: TorchModel) -> dict[str, bytes]:
    """All weights, for comparing bit by bit."""
    return {name: value.numpy().tobytes() for name, value in model.module.state_dict().items()}

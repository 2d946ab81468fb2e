"""A plan of fractions of a second, arms to run, and workers that need no process."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.benchmark import runner
from compressor.benchmark.process import ArmFile, config_of
from compressor.benchmark.runner import Arm
from compressor.benchmark.worker import Worker
from compressor.environment import describe_environment
from compressor.model.base import Arrays
from compressor.results import Artifact, Plan

ARTIFACT = Artifact("chain.onnx", "onnx", "00", 1, (), (), 20, 1, ())


@pytest.fixture
def plan() -> Plan:
    """Three blocks of windows of 20 ms, no warm-up: enough for the mechanics, far too short for a figure."""
    return Plan("custom", batch=2, threads=1, blocks=3, window_s=0.02, idle_s=0.02, warmup_limit_s=0.0, seed=1)


@pytest.fixture
def inputs() -> Arrays:
    return (np.random.default_rng(0).standard_normal((7, 64)).astype(np.float32),)


@pytest.fixture
def arms(chain: Path) -> list[Arm]:
    return [Arm("A", "baseline", ARTIFACT, chain), Arm("A twin", "control", ARTIFACT, chain)]


@pytest.fixture(autouse=True)
def _busy_machine_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests share their machine; the discarding itself is tested with its own limit. What others do is not watched."""
    monkeypatch.setattr(runner, "describe_environment", partial(describe_environment, 0.0))
    monkeypatch.setattr(runner, "FOREIGN_LOAD_LIMIT", 2.0)


class InProcess:
    """Stands in for a worker process, whose start takes most of a test's time: the same worker, asked directly."""

    pid = os.getpid()

    def __init__(self, file: ArmFile, plan: Plan) -> None:
        self._config = config_of(file, plan)

    def wait_until_loaded(self) -> None:
        self._worker = Worker(self._config)
        self.load_s, self.runtime = self._worker.load_s, self._worker.session.info

    def ask(self, do: str, expected_s: float = 0.0, **arguments: Any) -> dict[str, Any]:
        return getattr(self._worker, do)(**arguments)

    def require_alive(self) -> None: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "WorkerProcess", InProcess)

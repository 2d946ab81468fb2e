"""A plan of fractions of a second, and arms to run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compressor.benchmark import runner
from compressor.benchmark.runner import Arm
from compressor.model.base import Arrays
from compressor.results import Artifact, Plan

ARTIFACT = Artifact("chain.onnx", "onnx", "00", 1, (), (), 20, 1, ())


@pytest.fixture
def plan() -> Plan:
    """Three blocks of windows of 50 ms: enough for the mechanics, far too short for a figure."""
    return Plan("custom", batch=2, threads=1, blocks=3, window_s=0.05, idle_s=0.05, warmup_limit_s=0.3, seed=1)


@pytest.fixture
def inputs() -> Arrays:
    return (np.random.default_rng(0).standard_normal((7, 64)).astype(np.float32),)


@pytest.fixture
def arms(chain: Path) -> list[Arm]:
    return [Arm("A", "baseline", ARTIFACT, chain), Arm("A twin", "control", ARTIFACT, chain)]


@pytest.fixture(autouse=True)
def _busy_machine_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests share their machine; the discarding itself is tested with its own limit."""
    monkeypatch.setattr(runner, "FOREIGN_LOAD_LIMIT", 2.0)

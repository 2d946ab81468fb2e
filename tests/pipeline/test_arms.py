from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from compressor.benchmark.runner import Arm
from compressor.pipeline.arms import spread
from compressor.results import Artifact, Score

ARTIFACT = Artifact("m", "onnx", "00", 1, (), (), 20, 1, ())


class Task:
    """Counts how often something is scored."""

    def __init__(self) -> None:
        self.scored = 0

    def evaluate(self, predict) -> Score:
        self.scored += 1
        predict((np.ones((2, 64), np.float32),))
        return Score("accuracy", 0.5, "fraction", True)


def arms(chain: Path) -> list[Arm]:
    """As a run has them; the PyTorch file is never opened here."""
    return [
        Arm("PyTorch fp32", "baseline", ARTIFACT, chain.with_suffix(".pt2")),
        Arm("ONNX fp32", "baseline", ARTIFACT, chain),
        Arm("ONNX prune", "stage", ARTIFACT, chain),
        Arm("ONNX int8", "candidate", ARTIFACT, chain),
    ]


def shown(found: list[Arm]) -> list[tuple[str, str, str | None]]:
    return [(arm.name, arm.role, arm.runtime) for arm in found]


USUAL = [
    ("PyTorch fp32", "baseline", None),
    ("ONNX fp32", "baseline", None),
    ("ONNX prune", "stage", None),
    ("ONNX int8", "candidate", None),
    ("ONNX fp32 (A/A)", "control", None),
]


@pytest.mark.parametrize("runtimes", [[], ["onnxruntime"], ["onnxruntime", "torch"]])
def test_the_usual_runtimes_are_the_usual_arms(runtimes: list[str], chain: Path) -> None:
    task = Task()
    assert shown(spread(arms(chain), runtimes, "cpu", lambda: task)) == USUAL
    assert task.scored == 0


@pytest.mark.skipif(find_spec("openvino") is None, reason="not run: openvino is not installed")
def test_every_file_runs_on_every_runtime_that_opens_it(chain: Path) -> None:
    task = Task()
    found = spread(arms(chain), ["openvino", "onnxruntime"], "cpu", lambda: task)
    assert shown(found) == [
        ("PyTorch fp32", "baseline", None),
        ("ONNX fp32 on openvino", "baseline", "openvino"),
        ("ONNX fp32", "baseline", None),
        ("ONNX prune on openvino", "stage", "openvino"),
        ("ONNX prune", "stage", None),
        ("ONNX int8 on openvino", "candidate", "openvino"),
        ("ONNX int8", "stage", None),
        ("ONNX fp32 on openvino (A/A)", "control", "openvino"),
    ]
    # Other kernels, other numbers: what runs elsewhere has a score of its own.
    assert task.scored == 3
    assert [arm.score is not None for arm in found[:-1]] == [arm.runtime is not None for arm in found[:-1]]
    assert found[1].kernels is not None


def test_the_twin_runs_as_the_candidate_does(chain: Path) -> None:
    found = spread(
        [*arms(chain)[:2], Arm("PyTorch torchao", "candidate", ARTIFACT, chain.with_suffix(".safetensors"))],
        ["torch"],
        "cpu",
        Task,
    )
    assert shown(found)[-2:] == [("PyTorch torchao", "candidate", None), ("PyTorch fp32 (A/A)", "control", None)]

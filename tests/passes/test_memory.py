"""Memory of the methods on the ONNX graph: less than twice the model, whatever the model's size."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from chains import save_chain

from compressor.model.base import Arrays
from compressor.onnx_file import save_draft
from compressor.passes import payoff
from compressor.passes.base import Context
from compressor.passes.registry import make_pass

OnVnni = Callable[[Arrays], Context]

WIDTH, LAYERS = 1024, 24
SIZE = WIDTH * WIDTH * LAYERS * 4
OVERHEAD = 60 * 2**20
"""Of ONNX Runtime's sessions, and of what allocators keep; does not grow with the model."""


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products of 100 MB, weights in a second file; beside it ``whole.onnx``, with the weights inside."""
    folder = tmp_path_factory.mktemp("big")
    path = save_chain(folder / "whole.onnx", WIDTH, LAYERS)
    save_draft(onnx.load(path), folder / "model.onnx")
    return folder / "model.onnx"


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="not run: the high-water mark is read from /proc")
@pytest.mark.parametrize("name", ["int8-static", "int8-dynamic", "int4"])
def test_peak_is_below_twice_the_model(big: Path, vnni: OnVnni, tmp_path: Path, name: str) -> None:
    data = (np.random.default_rng(0).standard_normal((4, WIDTH)).astype(np.float32),)
    method = make_pass(name)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    method.apply(big, tmp_path / "out.onnx", vnni(data))
    assert resident("VmHWM") - before < 1.6 * SIZE + OVERHEAD


@pytest.mark.skipif(sys.platform != "linux", reason="not run: the high-water mark is read from /proc")
def test_peak_is_below_twice_the_model_when_it_is_timed(
    big: Path, vnni: OnVnni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models are loaded at once; weights inside the file, which ONNX Runtime would hold twice."""
    monkeypatch.setattr(payoff, "ROUNDS", 5)
    monkeypatch.setattr(payoff, "HEATS", 1)
    data = (np.random.default_rng(0).standard_normal((4, WIDTH)).astype(np.float32),)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    step = make_pass("int8").apply(big.with_name("whole.onnx"), tmp_path / "out.onnx", vnni(data))
    assert step.settings["measured"]
    assert resident("VmHWM") - before < 1.6 * SIZE + OVERHEAD

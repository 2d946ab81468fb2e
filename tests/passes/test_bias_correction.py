from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compressor.model.base import Arrays
from compressor.passes.base import Context
from compressor.passes.bias_correction import convolution_inputs, correct_biases, has_depthwise
from compressor.passes.calibration import activation_ranges, channel_means
from compressor.passes.int8 import Int8Static
from compressor.passes.int8_plan import Types
from compressor.passes.qdq import quiet, write_static
from compressor.runtimes.registry import open_session
from compressor.task.base import Examples

Zoo = Callable[..., tuple[Path, Arrays]]
OnVnni = Callable[[Arrays], Context]


def convolution(groups: int, outputs: int, bias: bool = True, taps: int = 3) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((outputs, 8 // groups, taps, taps)) * 10 ** rng.uniform(-2, 0, (outputs, 1, 1, 1))
    tensors = [numpy_helper.from_array(weight.astype(np.float32), "w")]
    if bias:
        tensors.append(numpy_helper.from_array(rng.standard_normal(outputs).astype(np.float32), "b"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"][: 3 if bias else 2], ["y"], name="conv", group=groups)],
        "g",
        [value("x", 1, ["n", 8, 9, 9])],
        [value("y", 1, ["n", outputs, 10 - taps, 10 - taps])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(("groups", "outputs"), [(8, 8), (8, 16), (2, 6), (1, 6)])
def test_mean_of_each_output_comes_back(tmp_path: Path, groups: int, outputs: int) -> None:
    """One scale for all channels, which rounds the small ones to almost nothing, on inputs whose mean is not 0."""
    proto = convolution(groups, outputs)
    onnx.save(proto, tmp_path / "plain.onnx")
    x = (np.random.default_rng(1).random((64, 8, 9, 9)) + np.arange(8)[:, None, None]).astype(np.float32)
    examples = Examples((x,), None)
    layers = {"conv"}
    with quiet():
        ranges = activation_ranges(proto, layers, examples, tmp_path, 1)
        quantized = write_static(proto, ("conv",), ranges, Types("uint8", False, ()), tmp_path, per_channel=False)
    expected = open_session(tmp_path / "plain.onnx").predict((x,)).mean(axis=(0, 2, 3))

    def shift() -> float:
        onnx.save(quantized, tmp_path / "q.onnx")
        return float(np.abs(open_session(tmp_path / "q.onnx").predict((x,)).mean(axis=(0, 2, 3)) - expected).max())

    before = shift()
    means = channel_means(proto, convolution_inputs(proto, layers), examples, tmp_path, 1)
    assert correct_biases(proto, quantized, layers, means) == 1
    assert shift() < before / 3


def test_convolution_without_bias_is_passed_over(tmp_path: Path) -> None:
    proto = convolution(8, 8, bias=False)
    x = np.random.default_rng(1).random((8, 8, 9, 9)).astype(np.float32)
    with quiet():
        ranges = activation_ranges(proto, {"conv"}, Examples((x,), None), tmp_path, 1)
        quantized = write_static(proto, ("conv",), ranges, Types("uint8", False, ()), tmp_path)
    assert correct_biases(proto, quantized, {"conv"}, {"x": np.ones(8)}) == 0


@pytest.mark.parametrize(("groups", "taps", "expected"), [(8, 3, True), (8, 1, False), (2, 3, False), (1, 3, False)])
def test_depthwise_is_one_channel_per_filter(groups: int, taps: int, expected: bool) -> None:
    assert has_depthwise(convolution(groups, 8, taps=taps), {"conv"}) is expected
    assert has_depthwise(convolution(groups, 8), set()) is False


def test_it_is_done_where_there_are_depthwise_layers(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    notes = {}
    for name in ("separable", "residual"):
        source, inputs = zoo(name)
        notes[name] = Int8Static().apply(source, tmp_path / f"{name}.onnx", vnni(inputs)).notes
    note = "Depthwise convolutions lose most to rounding: the biases of 4 layers are corrected."
    assert note in notes["separable"]
    assert not any("Depthwise" in x for x in notes["residual"])

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.model.base import Arrays
from compressor.onnx_file import save_onnx
from compressor.onnx_wire import array_of
from compressor.passes.calibration import activation_ranges
from compressor.passes.int8_plan import Plan, Types, choose
from compressor.passes.int8_rewrites import fit_for_int8
from compressor.passes.qdq import mix, quiet, write_dynamic, write_static
from compressor.passes.rewrites import prepare, split_gemms
from compressor.runtimes.registry import open_session
from compressor.task.base import Examples

Zoo = Callable[..., tuple[Path, Arrays]]
TYPES = Types("uint8", False, ())


def both(
    source: Path, inputs: Arrays, folder: Path, per_channel: bool = True
) -> tuple[onnx.ModelProto, onnx.ModelProto, Plan]:
    with quiet():
        plain = prepare(source, folder)
        fit_for_int8(plain.graph)
        plan = choose(plain, "auto", "int8")
        split_gemms(plain, set(plan.dynamic))
        quantized = plain
        if plan.static:
            ranges = activation_ranges(plain, plan.static, Examples(inputs, None), folder, 1)
            quantized = write_static(plain, plan.static, ranges, TYPES, folder, per_channel=per_channel)
        if plan.dynamic:
            copy = onnx.ModelProto()
            copy.CopyFrom(quantized)
            quantized = write_dynamic(copy, set(plan.dynamic), TYPES, folder)
    return plain, quantized, plan


@pytest.mark.parametrize("name", ["residual", "separable", "one-dimensional", "mlp", "shared", "patches", "lstm"])
def test_any_layers_can_stay_float(zoo: Zoo, tmp_path: Path, name: str) -> None:
    source, inputs = zoo(name)
    plain, quantized, plan = both(source, inputs, tmp_path)
    expected = open_session(source).predict(inputs)
    layers = list(plan.layers)
    choices = [frozenset(), *(frozenset([x]) for x in layers), frozenset(layers[::2]), frozenset(layers)]
    for kept in choices:
        proto = mix(plain, quantized, plan, kept)
        save_onnx(proto, tmp_path / "mixed.onnx")
        onnx.checker.check_model(tmp_path / "mixed.onnx")
        session = open_session(tmp_path / "mixed.onnx")
        got = session.predict(inputs)
        error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
        assert error < 1e-5 if not kept else 0 < error < 0.04
        assert session.kernels().low_precision == len(kept)


def test_nothing_kept_is_the_float_graph(zoo: Zoo, tmp_path: Path) -> None:
    source, inputs = zoo("residual")
    plain, quantized, plan = both(source, inputs, tmp_path)
    mixed = mix(plain, quantized, plan, frozenset())
    assert sorted(node.op_type for node in mixed.graph.node) == sorted(node.op_type for node in plain.graph.node)
    assert {x.data_type for x in mixed.graph.initializer} <= {x.data_type for x in plain.graph.initializer}


def test_all_kept_is_the_quantized_graph(zoo: Zoo, tmp_path: Path) -> None:
    for name in ("residual", "patches"):
        plain, quantized, plan = both(*zoo(name), tmp_path)
        mixed = mix(plain, quantized, plan, frozenset(plan.layers))
        assert sorted(x.name for x in mixed.graph.node) == sorted(x.name for x in quantized.graph.node)


def test_neighbours_in_int8_hand_on_int8(zoo: Zoo, tmp_path: Path) -> None:
    """The sum and the pooling behind int8 layers are int8; those behind a float one are not."""
    source, inputs = zoo("residual")
    plain, quantized, plan = both(source, inputs, tmp_path)
    layers = list(plan.layers)
    for left, sums in ((layers[-1:], 2), (layers[-2:], 1)):
        save_onnx(mix(plain, quantized, plan, frozenset(layers) - set(left)), tmp_path / "mixed.onnx")
        assert open_session(tmp_path / "mixed.onnx").kernels().by_op["QLinearAdd"] == sums


def rounded_weights(quantized: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Weight to the values that its levels stand for."""
    tensors = {x.name: array_of(x) for x in quantized.graph.initializer}
    found = {}
    for node in quantized.graph.node:
        if node.op_type == "DequantizeLinear" and tensors.get(node.input[0], np.zeros(0)).dtype == np.int8:
            levels, scale = tensors[node.input[0]], tensors[node.input[1]]
            axis = next((x.i for x in node.attribute if x.name == "axis"), 0)
            shape = [-1 if index == axis % levels.ndim else 1 for index in range(levels.ndim)]
            found[node.input[0].removesuffix("_quantized")] = levels * (scale.reshape(shape) if scale.ndim else scale)
    return found


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-2, 2))
def test_scale_per_channel_is_never_worse(tmp_path_factory: pytest.TempPathFactory, seed: int, spread: float) -> None:
    """The bound on the error, half a scale, against that of one scale for all channels, which holds as well."""
    folder = tmp_path_factory.mktemp("scales")
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((6, 3, 3, 3)) * 10 ** (spread * rng.random((6, 1, 1, 1)))).astype(np.float32)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="conv")],
        "g",
        [value("x", 1, ["n", 3, 6, 6])],
        [value("y", 1, ["n", 6, 4, 4])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    source = folder / "s.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), source)
    inputs = (rng.standard_normal((8, 3, 6, 6)).astype(np.float32),)
    limits = []
    for per_channel in (True, False):
        _, quantized, _ = both(source, inputs, folder, per_channel)
        largest = np.abs(weight).max(axis=(1, 2, 3) if per_channel else None, keepdims=True)
        limits.append(largest / 127 / 2 * (1 + 1e-4))
        assert np.all(np.abs(rounded_weights(quantized)["w"] - weight) <= limits[-1])
    assert np.all(limits[0] <= limits[1])


@settings(max_examples=25, deadline=None)
@given(st.floats(-1e3, 0, width=32), st.floats(0.0078125, 1e3, width=32), st.integers(0, 2**32 - 1))
def test_activation_moves_by_at_most_half_a_scale_inside_its_range(low: float, high: float, seed: int) -> None:
    """With the scale and zero point that the quantizer gives a range, run by ONNX Runtime's own kernels."""
    import onnxruntime as ort
    from onnxruntime.quantization.quant_utils import compute_scale_zp

    zero, scale = compute_scale_zp(np.float32(low), np.float32(high), np.uint8(0), np.uint8(255))
    value = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    tensors = [
        onnx.numpy_helper.from_array(np.array(scale, np.float32), "s"),
        onnx.numpy_helper.from_array(np.array(zero, np.uint8), "z"),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, ["n"])], [value("y", 1, ["n"])], tensors)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(seed).uniform(low, high, 200).astype(np.float32)
    y = session.run(None, {"x": x})[0]
    # Rounding the zero point moves the range's ends by up to half a scale.
    inside = (x >= (0 - float(zero)) * scale) & (x <= (255 - float(zero)) * scale)
    assert np.all(np.abs(y - x)[inside] <= scale / 2 * (1 + 1e-4) + 1e-7)
    assert np.all(np.abs(y - x) <= scale * (1 + 1e-4) + 1e-7)


def test_every_pair_of_layers(zoo: Zoo, tmp_path: Path) -> None:
    source, inputs = zoo("separable")
    plain, quantized, plan = both(source, inputs, tmp_path)
    expected = open_session(source).predict(inputs)
    for kept in combinations(plan.layers, 2):
        save_onnx(mix(plain, quantized, plan, frozenset(kept)), tmp_path / "mixed.onnx")
        got = open_session(tmp_path / "mixed.onnx").predict(inputs)
        assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < 0.04


def test_pooling_behind_a_float_layer_stays_float(tmp_path: Path) -> None:
    """ONNX Runtime would quantize in front of it, and pool uint8 with the channels first."""
    weights = np.random.default_rng(0).normal(size=(2, 8, 8, 3, 3)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Conv", ["x", "w0"], ["a"], name="a", pads=[1, 1, 1, 1]),
            onnx.helper.make_node("MaxPool", ["a"], ["b"], name="b", kernel_shape=[2, 2], strides=[2, 2]),
            onnx.helper.make_node("Conv", ["b", "w1"], ["y"], name="y", pads=[1, 1, 1, 1]),
        ],
        "pooled",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 8, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 8, 4, 4])],
        [onnx.numpy_helper.from_array(array, f"w{index}") for index, array in enumerate(weights)],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "pooled.onnx")
    inputs = (np.random.default_rng(1).normal(size=(4, 8, 8, 8)).astype(np.float32),)
    plain, quantized, plan = both(tmp_path / "pooled.onnx", inputs, tmp_path)
    save_onnx(mix(plain, quantized, plan, frozenset(["y"])), tmp_path / "mixed.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # the same on every CPU
    options.log_severity_level = 3
    ort.InferenceSession(str(tmp_path / "mixed.onnx"), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx").graph.node
    (pool,) = (node for node in optimised if node.op_type == "MaxPool")
    assert next(node.op_type for node in optimised if pool.input[0] in node.output) == "Conv"
    assert any(node.op_type == "QLinearConv" for node in optimised)

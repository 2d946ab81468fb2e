from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compressor.errors import MethodError
from compressor.model.base import Arrays
from compressor.passes.base import Context
from compressor.passes.weight_only import BLOCK_SIZES, Int4, Int8WeightOnly, dequantize_blocks, quantize_blocks
from compressor.runtimes.registry import open_session

Zoo = Callable[..., tuple[Path, Arrays]]
OnVnni = Callable[[Arrays], Context]
Method = Int4 | Int8WeightOnly


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 70), st.integers(1, 5)), elements=st.floats(-1e4, 1e4, width=32)),
    st.sampled_from((4, 8)),
    st.sampled_from(BLOCK_SIZES),
)
def test_error_of_a_weight_is_at_most_half_its_scale(weight: np.ndarray, bits: int, block_size: int) -> None:
    levels, scale, zero = quantize_blocks(weight, bits, block_size)
    assert levels.max() < 2**bits
    assert zero.max() < 2**bits
    back = dequantize_blocks(levels, scale, zero, len(weight))
    assert back.shape == weight.shape
    limit = scale.repeat(block_size, axis=1)[:, : len(weight)].T / 2
    assert np.all(np.abs(back - weight) <= limit * (1 + 1e-5) + 1e-12)
    assert np.all(back[weight == 0] == 0)


def test_smaller_blocks_are_more_exact() -> None:
    weight = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)
    errors = []
    for size in BLOCK_SIZES:
        levels, scale, zero = quantize_blocks(weight, 4, size)
        errors.append(float(np.linalg.norm(dequantize_blocks(levels, scale, zero, 256) - weight)))
    assert errors == sorted(errors)


@pytest.mark.parametrize(("name", "count"), [("mlp", 2), ("shared", 2), ("tokens", 1), ("patches", 5), ("lstm", 1)])
@pytest.mark.parametrize(("method", "bound"), [(Int4(16), 0.2), (Int4(32), 0.2), (Int8WeightOnly(32), 0.02)])
def test_packed_model_computes_what_its_weights_say(
    zoo: Zoo, vnni: OnVnni, tmp_path: Path, name: str, count: int, method: Method, bound: float
) -> None:
    source, inputs = zoo(name)
    step = method.apply(source, tmp_path / "a.onnx", vnni(inputs))
    session = open_session(tmp_path / "a.onnx")
    kernels = session.kernels()
    assert (kernels.low_precision, kernels.precision) == (count, f"int{method.bits}")
    assert kernels.by_op["MatMulNBits"] == count
    expected, got = open_session(source).predict(inputs), session.predict(inputs)
    assert 0 < np.linalg.norm(got - expected) / np.linalg.norm(expected) < bound
    assert step.settings["block_size"] == method.block_size


def test_file_is_smaller_the_fewer_the_bits(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("mlp")
    sizes = []
    for method in (Int4(32), Int8WeightOnly(32)):
        method.apply(source, tmp_path / f"{method.name}.onnx", vnni(inputs))
        sizes.append((tmp_path / f"{method.name}.onnx").stat().st_size)
    assert sizes == sorted({*sizes, source.stat().st_size})[:2]


@pytest.mark.parametrize("method", [Int4(32), Int8WeightOnly(32)])
def test_kernel_unpacks_what_was_packed(tmp_path: Path, vnni: OnVnni, method: Method) -> None:
    """Against the weights unpacked here: an odd number of blocks, and inputs that do not fill the last one."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((80, 24)).astype(np.float32)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [value("x", 1, ["n", 80])],
        [value("y", 1, ["n", 24])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    source = tmp_path / "s.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), source)
    x = rng.standard_normal((6, 80)).astype(np.float32)
    method.apply(source, tmp_path / "a.onnx", vnni((x,)))
    expected = x @ dequantize_blocks(*quantize_blocks(weight, method.bits, 32), 80)
    got = open_session(tmp_path / "a.onnx").predict((x,))
    # The kernel rounds its input to int8, block by block.
    assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < 0.01


def test_what_stays_float_is_named(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("patches")
    step = Int4().apply(source, tmp_path / "a.onnx", vnni(inputs))
    assert step.notes[1] == "Left in fp32, for lack of such a kernel: 1 convolutions or recurrences."


def test_model_without_products_is_refused(vnni: OnVnni, tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, ["n", 4])], [value("y", 1, ["n", 4])])
    source = tmp_path / "relu.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), source)
    with pytest.raises(MethodError) as caught:
        Int4().apply(source, tmp_path / "a.onnx", vnni((np.ones((2, 4), np.float32),)))
    assert str(caught.value) == (
        "int4: there is nothing to quantize: no matrix product with float32 weights; "
        "int4 is for transformers and multilayer perceptrons; use int8 for convolutions"
    )
    assert [x.name for x in tmp_path.iterdir()] == ["relu.onnx"]


def test_quantized_model_is_refused(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("mlp")
    Int4().apply(source, tmp_path / "a.onnx", vnni(inputs))
    with pytest.raises(MethodError) as caught:
        Int4().apply(tmp_path / "a.onnx", tmp_path / "b.onnx", vnni(inputs))
    assert str(caught.value) == (
        f"{tmp_path / 'a.onnx'}: the model is quantized already: it holds MatMulNBits '0/Gemm'; give the original model"
    )


def test_block_size_that_does_not_exist() -> None:
    with pytest.raises(MethodError) as caught:
        Int4(48)
    assert str(caught.value) == ("int4: block_size 48 does not exist; known: 16, 32, 64, 128, 256; the nearest is 32")

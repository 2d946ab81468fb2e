from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from chains import save_chain

from compressor.errors import MethodError
from compressor.model.base import Arrays
from compressor.passes.calibration import (
    BATCH,
    Calibration,
    activation_ranges,
    channel_maxima,
    channel_means,
    check_examples,
)
from compressor.task.base import Examples


def relu_chain(path: Path) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(onnx.load(path))


def test_ranges_are_those_of_all_examples(chain: Path, tmp_path: Path) -> None:
    proto = relu_chain(chain)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3 * BATCH + 5, 64)).astype(np.float32)
    x[0, 0], x[-1, 0] = -9, 11  # extremes in the first and in the last, incomplete batch
    found = activation_ranges(proto, ["matmul_0", "relu_0"], Examples((x,), None), tmp_path, 1)
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    product = x @ weight
    assert list(found) == ["x", "m0", "a0"]
    assert found["x"] == (-9, 11)
    assert found["m0"] == pytest.approx((product.min(), product.max()), rel=1e-5)
    assert found["a0"] == pytest.approx((0, product.max()), rel=1e-5)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_rare_large_values_are_cut(chain: Path, tmp_path: Path, method: Calibration) -> None:
    x = np.random.default_rng(0).standard_normal((40 * BATCH + 5, 64)).astype(np.float32)
    x[7, 3] = 100
    proto = relu_chain(chain)
    whole = activation_ranges(proto, ["matmul_0"], Examples((x,), None), tmp_path, 1)
    cut = activation_ranges(proto, ["matmul_0"], Examples((x,), None), tmp_path, 1, method=method, percentile=99.9)
    assert whole["x"][1] == 100
    assert 2 < cut["x"][1] < 10
    assert -10 < cut["x"][0] < -2
    assert whole["m0"][0] <= cut["m0"][0] < 0 < cut["m0"][1] < whole["m0"][1]
    if method == "percentile":
        assert cut["x"][1] == pytest.approx(np.quantile(x, 0.9995), abs=0.1)


def test_fixed_batch_is_calibrated_too(tmp_path: Path) -> None:
    save_chain(tmp_path / "c.onnx")
    proto = relu_chain(tmp_path / "c.onnx")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    x = np.random.default_rng(0).standard_normal((10, 64)).astype(np.float32)
    free = activation_ranges(relu_chain(tmp_path / "c.onnx"), ["matmul_0"], Examples((x,), None), tmp_path, 1)
    fixed = activation_ranges(
        proto, ["matmul_0"], Examples((x,), None), tmp_path, 1, method="percentile", percentile=100
    )
    assert fixed["x"] == pytest.approx(free["x"], rel=1e-6)
    assert fixed["m0"] == pytest.approx(free["m0"], rel=1e-5)


@pytest.mark.parametrize("opset", [13, 20])
def test_maxima_and_means_are_those_of_each_channel(tmp_path: Path, opset: int) -> None:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["x"], ["y"], name="neg")],
        "g",
        [value("x", 1, ["n", 3, 5])],
        [value("y", 1, ["n", 3, 5])],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    x = np.random.default_rng(0).standard_normal((BATCH + 3, 3, 5)).astype(np.float32)
    examples = Examples((x,), None)
    largest = channel_maxima(proto, {"y": 5}, examples, tmp_path, 1)["y"]
    np.testing.assert_allclose(largest, np.abs(x).max(axis=(0, 1)))
    means = channel_means(proto, {"y": 3}, examples, tmp_path, 1)["y"]
    np.testing.assert_allclose(means, -x.astype(np.float64).mean(axis=(0, 2)), atol=1e-6)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_memory_does_not_grow_with_the_examples(chain: Path, tmp_path: Path, method: Calibration) -> None:
    def peak(count: int) -> int:
        x = np.random.default_rng(0).standard_normal((count, 64)).astype(np.float32)
        tracemalloc.start()
        nodes = ["matmul_0", "matmul_1"]
        activation_ranges(relu_chain(chain), nodes, Examples((x,), None), tmp_path, 1, method=method)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(BATCH)  # what is imported or set up once
    assert peak(BATCH * 100) < peak(BATCH * 2) + 100_000  # the activations of 98 more batches would take 2.4 MB


def test_a_mask_of_minus_infinity_is_no_overflow(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Add", ["x", "mask"], ["s"], name="add"),
             onnx.helper.make_node("Softmax", ["s"], ["y"], name="softmax")]  # fmt: skip
    values = [onnx.helper.make_tensor_value_info(name, 1, ["n", 4]) for name in ("x", "s", "y")]
    mask = onnx.numpy_helper.from_array(np.array([0, 0, -np.inf, -np.inf], np.float32), "mask")
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[2:], [mask], value_info=values[1:2])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    x = np.array([[1, 2, 3, 4], [-5, 0, 1, 1]], np.float32)
    found = activation_ranges(proto, ["add", "softmax"], Examples((x,), None), tmp_path, 1)
    assert found["s"] == (0, 2)
    assert found["y"][0] == 0


def test_activation_that_overflows_is_named(chain: Path, tmp_path: Path) -> None:
    x = np.full((4, 64), 3e38, np.float32)
    with pytest.raises(MethodError) as caught:
        activation_ranges(relu_chain(chain), ["matmul_0"], Examples((x,), None), tmp_path, 1)
    assert str(caught.value) == (
        "m0: the activation is NaN or infinite on the calibration data; check the model's weights and the data"
    )


MEND = "give examples such as the model will see in use"


def filled(value: float, row: int | None = None) -> Arrays:
    x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    x[slice(None) if row is None else row] = value
    return (x,)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (filled(0), f"calibration input 'x': is 0 everywhere, so no range can be learnt; {MEND}"),
        (filled(2.5), f"calibration input 'x': is 2.5 everywhere, so no range can be learnt; {MEND}"),
        (filled(np.nan, 5), "calibration input 'x': holds NaN or infinity; remove those examples"),
        (filled(-np.inf, 0), "calibration input 'x': holds NaN or infinity; remove those examples"),
        (
            (np.zeros((0, 64), np.float32),),
            "there are no calibration examples; give data, with some left for calibration",
        ),
        (filled(1, 0) * 2, f"the model takes 1 inputs, the calibration data have 2; {MEND}"),
        (
            (np.ones((8, 32), np.float32),),
            f"calibration input 'x': is float32 (8, 32), the model takes float32 (N, 64); {MEND}",
        ),
        (
            (np.ones((8, 64)),),
            f"calibration input 'x': is float64 (8, 64), the model takes float32 (N, 64); {MEND}",
        ),
    ],
    ids=["zero", "constant", "nan", "infinite", "empty", "two", "narrow", "double"],
)
def test_examples_that_cannot_serve(chain: Path, inputs: Arrays, message: str) -> None:
    with pytest.raises(MethodError) as caught:
        check_examples(Examples(inputs, None), onnx.load(chain))
    assert str(caught.value) == message


def test_one_dead_row_is_no_reason_to_refuse(chain: Path) -> None:
    check_examples(Examples(filled(0, 3), None), onnx.load(chain))

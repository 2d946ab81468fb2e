from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest

from compressor.errors import MethodError
from compressor.model.base import Arrays
from compressor.passes.calibration import BATCH, activation_ranges, check_examples
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


def test_memory_does_not_grow_with_the_examples(chain: Path, tmp_path: Path) -> None:
    def peak(count: int) -> int:
        x = np.random.default_rng(0).standard_normal((count, 64)).astype(np.float32)
        tracemalloc.start()
        activation_ranges(relu_chain(chain), ["matmul_0", "matmul_1"], Examples((x,), None), tmp_path, 1)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(BATCH)  # what is imported or set up once
    assert peak(BATCH * 100) < peak(BATCH * 2) + 100_000  # the activations of 98 more batches would take 2.4 MB


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

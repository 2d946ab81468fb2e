from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import RuntimeUnavailableError
from compressor.runtimes import openvino
from compressor.runtimes.openvino import open_session, require

pytest.importorskip("openvino", reason="not run: openvino is not installed")


def save(
    path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], domain: str = "com.microsoft"
) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy"]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(domain, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_importing_it_sends_nothing() -> None:
    """OpenVINO reports every import to its maker, if openvino_telemetry is installed: here it is never loaded."""
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise SystemExit('the network was used')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from compressor.runtimes.openvino import require\n"
        "require('cpu')\n"
        "print('openvino_telemetry' in sys.modules, 'openvino' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("False True\n", "")


def test_it_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    # None is how Python marks what must not be imported: as if it were not installed.
    for name in [name for name in sys.modules if name.split(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    with pytest.raises(RuntimeUnavailableError) as caught:
        require("cpu")
    assert str(caught.value) == "openvino: OpenVINO is not installed; pip install 'compressor[openvino]'"


class Refusing:
    """Finds no openvino."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "openvino":
            raise ImportError(name)


def test_bfloat16_needs_a_cpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "cpu_flags", lambda: frozenset({"avx2"}))
    require("cpu")
    with pytest.raises(RuntimeUnavailableError) as caught:
        require("cpu", bf16=True)
    assert str(caught.value) == (
        "openvino-bf16: this CPU has no bfloat16 instructions; use openvino, which runs in float32"
    )


def test_another_precision_than_asked_for_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake: what is told of the compiled model stands for a CPU without that precision."""
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = save(tmp_path / "m.onnx", [product], {"w": np.ones((64, 64), np.float32)})
    monkeypatch.setattr(openvino, "_shown", lambda _: "f32")
    with pytest.raises(RuntimeUnavailableError) as caught:
        openvino._compile(path, 1, "bf16")
    assert str(caught.value) == f"{path}: OpenVINO computes in f32 here, though told bf16"


def test_static_int8_runs_in_int8(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one, zero, zero8 = np.float32(0.02), np.uint8(128), np.zeros(64, np.int8)
    weights = {
        "s": np.array(one),
        "z": np.array(zero),
        "ws": np.full(64, one),
        "wz": zero8,
        "w": rng.integers(-100, 100, (64, 64)).astype(np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["dw"], axis=1),
        helper.make_node("MatMul", ["d", "dw"], ["y"], name="product"),
    ]
    counts = open_session(save(tmp_path / "m.onnx", nodes, weights), 1).kernels()
    assert (counts.compute, counts.low_precision, counts.precision, counts.left) == (1, 1, "int8", {})


def test_dynamic_int8_that_ends_in_float32_is_told(tmp_path: Path) -> None:
    """ONNX Runtime has a kernel for these; OpenVINO turns the integers into floats, and the count shows it."""
    weights = {"w": np.random.default_rng(0).integers(-100, 100, (64, 64)).astype(np.int8)}
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"], name="product"),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    counts = open_session(save(tmp_path / "m.onnx", nodes, weights), 1).kernels()
    assert (counts.compute, counts.low_precision, counts.precision) == (1, 0, "int8")
    assert counts.left == {"product": "quantized in the file, but OpenVINO turns it back into float32 here"}


def test_weights_of_4_bits_are_counted(tmp_path: Path) -> None:
    weights = {"b": np.full((64, 2, 16), 0x97, np.uint8), "s": np.ones(128, np.float32)}
    node = helper.make_node(
        "MatMulNBits", ["x", "b", "s"], ["y"], name="four", bits=4, K=64, N=64, block_size=32, domain="com.microsoft"
    )
    counts = open_session(save(tmp_path / "m.onnx", [node], weights), 1).kernels()
    assert (counts.compute, counts.low_precision, counts.precision) == (1, 1, "int4")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No conversion rule found for operations: bar.Foo"), (b"junk", "Model can't be parsed")],
)
def test_what_it_cannot_load_says_why(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Foo", ["x"], ["y"], domain="bar")], {}, "bar")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RuntimeUnavailableError) as caught:
        open_session(path, 1)
    assert str(caught.value) == f"{path}: OpenVINO cannot load it: {message}"

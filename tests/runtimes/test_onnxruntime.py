from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import RuntimeUnavailableError
from compressor.results import TensorSpec
from compressor.runtimes import onnxruntime
from compressor.runtimes.onnxruntime import _float_types, _low_precision, open_session


def test_session_tells_its_inputs_outputs_and_options(chain: Path) -> None:
    session = open_session(chain, 1)
    assert session.inputs == (TensorSpec("x", "float32", (None, 64)),)
    assert session.outputs == (TensorSpec("y", "float32", (None, 64)),)
    assert dict(session.info.options) == {
        "intra_op_num_threads": "1",
        "inter_op_num_threads": "1",
        "session.intra_op.allow_spinning": "0",
        "log_severity_level": "3",
        "providers": "CPUExecutionProvider",
    }


def test_options_are_in_force(chain: Path) -> None:
    session = open_session(chain, 2)
    options = session._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert session._session.get_providers() == ["CPUExecutionProvider"]


def test_kernels_of_a_float_model(chain: Path) -> None:
    found = open_session(chain, 1).kernels()
    assert (found.compute, found.low_precision, found.precision) == (2, 0, "fp32")
    assert found.by_op == {"MatMul": 2, "Relu": 2}
    assert found.left == {}


def quantized(path: Path, weight_is_int8: bool) -> Path:
    """``y = x · w`` with a dynamically quantized product, and a second product that is left as it is."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-100, 100, (8, 8)).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="quantize"),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"], name="product"),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("Mul", ["f", "s"], ["g"], name="scale"),
        helper.make_node("MatMul", ["g", "v"], ["h"], name="float product"),
        helper.make_node("Transpose", ["h"], ["t"], perm=[1, 0], name="turn"),
        helper.make_node("MatMul", ["h", "t"], ["y"], name="self product"),
    ]
    if not weight_is_int8:
        nodes = nodes[4:]
        nodes[0].input[0] = "x"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "n"])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(rng.standard_normal((8, 8)).astype(np.float32), "v"),
        ][0 if weight_is_int8 else 1 :],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_kernels_of_a_mixed_model_name_what_stayed_float_and_why(tmp_path: Path) -> None:
    found = open_session(quantized(tmp_path / "m.onnx", True), 1).kernels()
    assert (found.compute, found.low_precision, found.precision) == (3, 1, "int8")
    assert sum(count for op, count in found.by_op.items() if op in ("MatMulInteger", "MatMulIntegerToFloat")) == 1
    assert sorted(found.left.values()) == ["multiplies two activations, not weights", "not quantized in the file"]


def test_kernels_of_few_bits_are_counted_by_their_bits(tmp_path: Path) -> None:
    attributes = {"K": 32, "N": 8, "block_size": 32, "domain": "com.microsoft"}
    nodes = [
        helper.make_node("MatMulNBits", ["x", "b4", "s"], ["h"], name="four", bits=4, **attributes),
        helper.make_node("MatMulNBits", ["x", "b8", "s"], ["i"], name="eight", bits=8, **attributes),
        helper.make_node("MatMul", ["x", "w"], ["j"], name="plain"),
        helper.make_node("Sum", ["h", "i", "j"], ["y"], name="sum"),
    ]
    tensors = {
        "b4": np.zeros((8, 1, 16), np.uint8),
        "b8": np.zeros((8, 1, 32), np.uint8),
        "s": np.ones(8, np.float32),
        "w": np.ones((32, 8), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "m.onnx")
    found = open_session(tmp_path / "m.onnx", 1).kernels()
    assert (found.compute, found.low_precision, found.precision) == (3, 2, "int4+int8")
    assert found.left == {"plain": "not quantized in the file"}


def test_float16_that_the_runtime_casts_back_is_none_of_n(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16, name="in"),
        helper.make_node("MatMul", ["h", "w"], ["q"], name="product"),
        helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT, name="out"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(np.ones((8, 8), np.float16), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    found = open_session(tmp_path / "m.onnx", 1).kernels()
    assert (found.compute, found.low_precision, found.precision) == (1, 0, "fp16")
    assert set(found.left.values()) == {"ONNX Runtime has no fp16 kernel for it here and casts to float32"}


def test_types_are_followed_through_an_optimised_graph() -> None:
    """A graph as ONNX Runtime would leave it on a CPU with a float16 product, written by hand: this one has none."""
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("FusedMatMul", ["h", "w"], ["p"], domain="com.microsoft"),
        helper.make_node("Cast", ["p"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("FusedMatMul", ["f", "v"], ["y"], domain="com.microsoft"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(np.ones((8, 8), np.float16), "w")],
    )
    assert _float_types(graph) == {"w": "fp16", "h": "fp16", "p": "fp16"}
    assert [_low_precision(node, _float_types(graph)) for node in nodes] == [None, "fp16", None, None]


def test_counting_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    path = quantized(tmp_path / "m.onnx", False)
    before = path.read_bytes()
    assert open_session(path, 1).kernels().precision == "fp32"
    assert path.read_bytes() == before
    assert list((tmp_path / "tmp").iterdir()) == []


class FakeSession:
    """A fake of ONNX Runtime's session on a machine with a GPU: none is here."""

    asked: ClassVar[list[object]] = []
    starts = True

    def __init__(self, path: str, options: object, providers: list[object]) -> None:
        self.asked.append(providers)
        names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        self._names = names if self.starts else names[-1:]

    def get_providers(self) -> list[str]:
        return self._names

    def disable_fallback(self) -> None:
        self.falls_back = False

    def get_inputs(self) -> list[object]:
        return []

    get_outputs = get_inputs


@pytest.mark.parametrize(
    ("tensorrt", "providers"),
    [
        (False, [("CUDAExecutionProvider", {"device_id": 1, "use_tf32": 0}), "CPUExecutionProvider"]),
        (
            True,
            [
                ("TensorrtExecutionProvider", {"device_id": 1}),
                ("CUDAExecutionProvider", {"device_id": 1, "use_tf32": 0}),
                "CPUExecutionProvider",
            ],
        ),
    ],
)
def test_providers_of_a_gpu(tensorrt: bool, providers: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime.ort, "InferenceSession", FakeSession)
    session = open_session(Path("m.onnx"), 1, "cuda:1", tensorrt)
    assert FakeSession.asked[-1] == providers
    assert session.info.device == "cuda:1"
    assert session._session.falls_back is False
    assert (session.info.name, session.kernels() if tensorrt else None) == (
        "onnxruntime-tensorrt" if tensorrt else "onnxruntime",
        None,
    )


def test_engines_of_two_files_lie_apart_even_where_only_the_weights_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime.ort, "InferenceSession", FakeSession)
    monkeypatch.setenv(onnxruntime.CACHE_VARIABLE, str(tmp_path / "engines"))

    def place(folder: str, weights: bytes) -> str:
        file = tmp_path / folder / "model.onnx"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(weights)
        open_session(file, 1, "cuda", True)
        (_, options), *_ = FakeSession.asked[-1]
        assert options["trt_engine_cache_enable"] is True
        return options["trt_engine_cache_path"]

    first = place("a", b"1")
    assert Path(first).is_dir()
    assert place("b", b"1") != first
    assert place("a", b"22") != first


def test_a_provider_that_does_not_start_is_no_cpu_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime.ort, "InferenceSession", type("Off", (FakeSession,), {"starts": False}))
    with pytest.raises(RuntimeUnavailableError) as caught:
        open_session(Path("m.onnx"), 1, "cuda")
    assert str(caught.value).startswith(
        "m.onnx: CUDAExecutionProvider did not start, ONNX Runtime fell back to CPUExecutionProvider; "
    )

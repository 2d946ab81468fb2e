"""What every runtime must keep, run over each that is installed here."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compressor.errors import CompressorError, DataError, RuntimeUnavailableError
from compressor.export import export_program
from compressor.model.base import TorchModel
from compressor.passes.base import Context
from compressor.passes.registry import make_pass
from compressor.results import ModelSummary, TensorSpec
from compressor.runtimes.registry import FORMATS, ONNX, RUNTIMES, TORCHAO, open_session, opens, require

ON_GPU_ONLY = {"onnxruntime-tensorrt"}
INPUTS = (TensorSpec("x", "float32", (None, 64)),)
KNOWN = ", ".join(sorted(RUNTIMES))
THREADS = {
    "onnxruntime": "intra_op_num_threads",
    "openvino": "INFERENCE_NUM_THREADS",
    "openvino-bf16": "INFERENCE_NUM_THREADS",
    "torch": "threads",
    "torch-compile": "threads",
}


@pytest.fixture(scope="module")
def module() -> nn.Module:
    """A product alone: torch.compile then has nothing to generate C++ of, which takes seconds."""
    torch.manual_seed(0)
    return nn.Linear(64, 8).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, module: nn.Module) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    summary = ModelSummary("m", "m.pt2", "exported program", "00", 1, 520, INPUTS)
    model = TorchModel("m", module, (torch.randn(2, 64),), INPUTS, summary)
    weights = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in module.state_dict().items()]
    node = helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], transB=1, name="product")
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", size]) for n, size in (("x", 64), ("y", 8))]
    graph = helper.make_graph([node], "g", values[:1], values[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "m.onnx")
    export_program(model, folder / "m.pt2")
    (folder / "torchao").mkdir()
    made = folder / "torchao" / "model.safetensors"
    make_pass("torchao-int8-weight-only").apply(model, made, Context(task=None))
    return {".onnx": folder / "m.onnx", ".pt2": folder / "m.pt2", ".safetensors": made}


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


CASES = [(name, ending) for name, runtime in RUNTIMES.items() if name not in ON_GPU_ONLY for ending in runtime.opens]


def opened(name: str, path: Path, threads: int = 1):
    try:
        require([name])
    except RuntimeUnavailableError as error:
        pytest.skip(f"not run: {error}")
    return open_session(path, name, threads=threads)


@pytest.mark.parametrize(("name", "ending"), CASES)
def test_a_session(
    name: str, ending: str, files: dict[str, Path], module: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (name, ending) == ("torch-compile", TORCHAO):
        # Traced by the compiler as ever, but run without its C++, which takes a minute on a busy machine.
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    session = opened(name, files[ending])
    assert (session.info.name, session.info.device) == (name, "cpu")
    assert [(spec.dtype, spec.shape) for spec in session.inputs] == [("float32", (None, 64))]
    assert [(spec.dtype, spec.shape) for spec in session.outputs] == [("float32", (None, 8))]

    # The same numbers, whatever the batch, from arrays that may not be written to, which stay as they are.
    tolerance = 1e-5 if name != "openvino-bf16" and ending != TORCHAO else 2e-2
    rng = np.random.default_rng(0)
    for count in (2, 5):
        x = rng.standard_normal((count, 64)).astype(np.float32)
        x.setflags(write=False)
        expected = module(torch.from_numpy(x.copy())).numpy()
        found = session.predict((x,))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(session.run((x,))[0], found)

    # An output is the caller's: the next call does not write over it.
    kept = found.copy()
    session.predict((np.zeros((5, 64), np.float32),))
    np.testing.assert_array_equal(found, kept)

    with pytest.raises(DataError, match="takes float32 and was given float64"):
        session.predict((np.zeros((2, 64)),))

    # Loaded and waiting, it costs nothing: otherwise the arm that waits is charged to the one that runs.
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.1

    counts = session.kernels()
    if name.startswith("torch") and ending != TORCHAO:
        assert counts is None
        return
    assert counts.compute == 1
    assert sum(counts.by_op.values()) >= counts.compute
    low = {"openvino-bf16": "bf16"}.get(name, "int8" if ending == TORCHAO else "fp32")
    assert (counts.precision, counts.low_precision) == (low, int(low != "fp32"))
    assert counts.left == {}


@pytest.mark.parametrize("name", THREADS)
def test_threads_are_fixed(name: str, files: dict[str, Path]) -> None:
    assert opened(name, files[RUNTIMES[name].opens[0]], threads=2).info.options[THREADS[name]] == "2"


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_device_that_is_not_here_is_one_line(name: str, files: dict[str, Path]) -> None:
    if torch.cuda.is_available():
        pytest.skip("not run: there is a GPU here")
    with pytest.raises(RuntimeUnavailableError) as caught:
        open_session(files[RUNTIMES[name].opens[0]], name, device="cuda:1")
    text = str(caught.value)
    assert text.startswith(f"--device: {name} cannot run on a GPU here: ")
    assert text.endswith("; use --device cpu")
    assert "\n" not in text


@pytest.mark.parametrize(("name", "ending"), CASES)
def test_a_file_that_is_none(name: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{ending}"
    path.write_bytes(b"not a model")
    with pytest.raises(CompressorError) as caught:
        opened(name, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_every_format_has_a_usual_runtime() -> None:
    assert FORMATS == {".onnx": "onnxruntime", ".pt2": "torch", ".safetensors": "torch"}
    assert opens("openvino", Path("A.ONNX"))
    assert not opens("torch", Path("a.onnx"))


@pytest.mark.parametrize(
    ("runtimes", "device", "message"),
    [
        (
            ["openvina"],
            "cpu",
            "--runtime: no runtime 'openvina'; did you mean 'openvino'? known: " + ", ".join(sorted(RUNTIMES)),
        ),
        (["torch", "torch"], "cpu", "--runtime: names torch twice"),
        ([], "gpu", "--device: no device 'gpu'; known: cpu, cuda, cuda:1"),
        (
            ["onnxruntime-tensorrt"],
            "cpu",
            "onnxruntime-tensorrt: runs on a GPU only; add --device cuda, or use onnxruntime",
        ),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_loaded(runtimes: list[str], device: str, message: str) -> None:
    with pytest.raises(RuntimeUnavailableError) as caught:
        require(runtimes, device)
    assert str(caught.value) == message


def test_onnx_is_the_format_of_the_graph_runtimes() -> None:
    assert [name for name, runtime in RUNTIMES.items() if runtime.opens == (ONNX,)] == [
        "onnxruntime",
        "onnxruntime-tensorrt",
        "openvino",
        "openvino-bf16",
    ]

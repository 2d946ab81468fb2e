"""OpenVINO on the CPU: runs ONNX files, and tells in which precision each operator of its own graph runs.

Weights and activations are float32 unless the file itself is quantized or ``bf16`` is asked for: left to itself,
OpenVINO computes in bfloat16 wherever the CPU can, which would compare a precision where a runtime was meant.

OpenVINO has no option against spinning threads as ONNX Runtime has; its workers (oneTBB) sleep when a call is done.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.cpuinfo import cpu_flags
from compressor.errors import RuntimeUnavailableError
from compressor.model.base import Arrays
from compressor.results import KernelCounts, RuntimeInfo, TensorSpec
from compressor.runtimes.batching import predict, unique
from compressor.runtimes.device import cuda_index, no_gpu

_TELEMETRY = "openvino_telemetry"
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})

# fmt: off
COMPUTE = frozenset({
    "Convolution", "Deconvolution", "FullyConnected", "GRUCell", "GRUSequence", "GatedMLP", "LLMMLP", "LSTMCell",
    "LSTMSequence", "MatMul", "QKVProjection", "RNNCell", "RNNSeq", "RNNSequence", "ScaledDotProductAttention",
})
"""Layer types of OpenVINO's CPU plugin that do a model's arithmetic."""
# fmt: on

_LOW = {"i8": "int8", "u8": "int8", "i4": "int4", "u4": "int4", "bf16": "bf16", "f16": "fp16"}
_OPTIONS = (
    "EXECUTION_DEVICES",
    "INFERENCE_NUM_THREADS",
    "INFERENCE_PRECISION_HINT",
    "NUM_STREAMS",
    "PERFORMANCE_HINT",
    "ENABLE_CPU_PINNING",
)
_NO_OPERATOR = frozenset({"Const", "Input", "Output"})


def _library() -> ModuleType:
    """OpenVINO, imported without its telemetry.

    ``import openvino`` alone reports itself to its maker through ``openvino_telemetry``, if that is installed. Without
    it OpenVINO uses a stub that does nothing, so it is hidden while OpenVINO is imported.

    Raises:
        RuntimeUnavailableError: It is not installed.
    """
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    before = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # None is how Python marks what must not be imported
    try:
        import openvino
    except ImportError as error:
        raise RuntimeUnavailableError(
            "OpenVINO is not installed", where="openvino", mend="pip install 'compressor[openvino]'"
        ) from error
    finally:
        del sys.modules[_TELEMETRY]
        if before is not None:
            sys.modules[_TELEMETRY] = before
    found: ModuleType = openvino
    return found


def require(device: str, bf16: bool = False) -> None:
    """See that OpenVINO is installed and can run so.

    Raises:
        RuntimeUnavailableError: It is not installed, a GPU was asked for, or the CPU has no bfloat16.
    """
    _library()
    name = "openvino-bf16" if bf16 else "openvino"
    if cuda_index(device) is not None:
        raise no_gpu(name, "it has no NVIDIA backend")
    if bf16 and not _BF16_FLAGS & cpu_flags():
        raise RuntimeUnavailableError(
            "this CPU has no bfloat16 instructions", where=name, mend="use openvino, which runs in float32"
        )


class OpenVinoSession:
    """An ONNX file loaded by OpenVINO's CPU plugin.

    Attributes:
        info: The runtime, its version and the options in force.
        inputs: The model's inputs.
        outputs: Its outputs.
    """

    def __init__(self, path: Path, threads: int, bf16: bool) -> None:
        self._path = path
        self._model = _compile(path, threads, "bf16" if bf16 else "f32")
        self._tensor = _library().Tensor
        self._request = self._model.create_infer_request()
        self._bf16 = bf16
        self.inputs = tuple(_spec(port) for port in self._model.inputs)
        self.outputs = tuple(_spec(port) for port in self._model.outputs)
        options = {name: _shown(self._model.get_property(name)) for name in _OPTIONS}
        name = "openvino-bf16" if bf16 else "openvino"
        self.info = RuntimeInfo(name, _library().__version__.partition("-")[0], "cpu", options)

    def run(self, inputs: Arrays) -> tuple[NDArray[np.generic], ...]:
        """Compute all outputs of one batch, ``(batch, …)`` each, in the order of ``outputs``."""
        # Not infer(): the dictionaries that it makes of inputs and outputs take longer than a small model.
        tensors = [self._tensor(np.require(x, requirements=("C", "W")), shared_memory=True) for x in inputs]
        for index, tensor in enumerate(tensors):
            self._request.set_input_tensor(index, tensor)
        self._request.start_async()
        self._request.wait()
        return tuple(self._request.get_output_tensor(index).data.copy() for index in range(len(self.outputs)))

    def predict(self, inputs: Arrays) -> NDArray[np.generic]:
        """Compute the first output of one batch, ``(batch, …)``; see :func:`~compressor.runtimes.batching.predict`."""
        return predict(self.run, self.inputs, inputs, self.outputs)

    def kernels(self) -> KernelCounts:
        """Count the operators of the graph as OpenVINO compiled it for this CPU, with the precision each runs in.

        Returns:
            The counts; ``precision`` is what the graph runs or was asked for below float32, ``fp32`` if nothing.
        """
        by_op: Counter[str] = Counter()
        low: Counter[str] = Counter()
        left: dict[str, str] = {}
        for node in self._model.get_runtime_model().get_ordered_ops():
            about = node.get_rt_info()
            kind = about["layerType"].astype(str)
            if kind in _NO_OPERATOR:
                continue
            by_op[kind] += 1
            if kind not in COMPUTE:
                continue
            if precision := _precision(node, about):
                low[precision] += 1
            else:
                left[unique(node.get_friendly_name(), left)] = _why(node)
        asked = {"bf16"} if self._bf16 else set()
        # A quantized file of which nothing ends up in int8 shows 0 of n.
        precisions = sorted({*low, *asked, *({"int8"} if _quantized(self._path) else ())})
        return KernelCounts(
            compute=low.total() + len(left),
            low_precision=low.total(),
            precision="+".join(precisions) or "fp32",
            by_op=dict(sorted(by_op.items())),
            left=left if precisions else {},
        )


def _compile(path: Path, threads: int, precision: str) -> Any:
    openvino = _library()
    try:
        # By its name: asked to guess, OpenVINO tries every format that it knows and prints each one's complaint.
        frontend = openvino.frontend.FrontEndManager().load_by_framework("onnx")
        model = frontend.convert(frontend.load(os.fspath(path)))
        compiled = openvino.Core().compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "INFERENCE_PRECISION_HINT": precision,
                # The worker is pinned already, and OpenVINO would put every session on the same first cores.
                "ENABLE_CPU_PINNING": False,
            },
        )
    except Exception as error:  # its errors share no base but RuntimeError, and its bindings raise others
        raise RuntimeUnavailableError(f"OpenVINO cannot load it: {_reason(error)}", where=path) from error
    # Told a precision that it lacks, it takes another and says nothing.
    if (got := _shown(compiled.get_property("INFERENCE_PRECISION_HINT"))) != precision:
        raise RuntimeUnavailableError(f"OpenVINO computes in {got} here, though told {precision}", where=path)
    return compiled


def _shown(value: Any) -> str:
    """An option as OpenVINO writes it."""
    return str(value.to_string() if hasattr(value, "to_string") else value)


def _quantized(path: Path) -> bool:
    import onnx

    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return any("QuantizeLinear" in node.op_type or node.op_type.endswith("Integer") for node in nodes)


def _reason(error: Exception) -> str:
    """The last line that says anything: before it stand the places in OpenVINO's own source."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '")) and line[-1] != ":"]
    return next((line[3:] for line in said if line.startswith("-- ")), said[0] if said else type(error).__name__)


def _spec(port: Any) -> TensorSpec:
    shape = tuple(int(axis.get_length()) if axis.is_static else None for axis in port.get_partial_shape())
    return TensorSpec(port.get_any_name(), np.dtype(port.get_element_type().to_dtype()).name, shape)


def _precision(node: Any, about: Any) -> str | None:
    """The precision below float32 in which a compute operator runs, or holds its weights; ``None`` for float32."""
    if found := _LOW.get(about["runtimePrecision"].astype(str)):
        return found
    return _LOW.get(node.input(1).get_element_type().to_string()) if len(node.inputs()) > 1 else None


def _why(node: Any) -> str:
    """What is known of why an operator runs in float32."""
    sources = [port.get_source_output().get_node().get_rt_info() for port in node.inputs()[1:2]]
    if any(about["runtimePrecision"].astype(str) in ("i8", "u8", "i32") for about in sources):
        return "quantized in the file, but OpenVINO turns it back into float32 here"
    return "OpenVINO runs it in float32 here"


def open_session(path: Path, threads: int, device: str = "cpu", bf16: bool = False) -> OpenVinoSession:
    """Load an ONNX file.

    Args:
        path: The file, its external data beside it.
        threads: Threads that one call may use.
        device: ``cpu``.
        bf16: Whether operators may run in bfloat16.

    Returns:
        The loaded model.

    Raises:
        RuntimeUnavailableError: OpenVINO is not installed or cannot load it.
    """
    return OpenVinoSession(path, threads, bf16)

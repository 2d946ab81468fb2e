"""ONNX Runtime on the CPU: runs an ONNX file, and tells which kernels its optimised graph is made of."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from compressor.errors import RuntimeUnavailableError
from compressor.model.base import Arrays
from compressor.results import KernelCounts, RuntimeInfo, TensorSpec
from compressor.runtimes.batching import predict

if TYPE_CHECKING:
    import onnx

# fmt: off
INT8_KERNELS = frozenset({
    "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat",
    "NhwcQLinearConv", "QAttention", "QGemm", "QLinearConv", "QLinearConvTranspose", "QLinearMatMul",
})
"""Kernels that multiply in int8 (ONNX Runtime's ``docs/OperatorKernels.md``)."""

FLOAT_KERNELS = frozenset({
    "Attention", "Conv", "ConvTranspose", "DeformConv", "Einsum", "FusedConv", "FusedGemm", "FusedMatMul", "GRU",
    "Gemm", "LSTM", "MatMul", "MultiHeadAttention", "NhwcFusedConv", "RNN", "TransposeMatMul",
})
"""Kernels that do a model's arithmetic in the type of their inputs."""
# fmt: on

_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
}


class OnnxRuntimeSession:
    """An ONNX file loaded by ONNX Runtime's CPU provider.

    Attributes:
        info: The runtime, its version and every option that is not its default.
        inputs: The model's inputs.
        outputs: Its outputs.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        self._session = _load(path, _options(threads))
        self._names = [value.name for value in self._session.get_outputs()]
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())
        options = {
            "intra_op_num_threads": str(threads),
            "inter_op_num_threads": "1",
            "session.intra_op.allow_spinning": "0",
            "log_severity_level": "3",
            "providers": "CPUExecutionProvider",
        }
        self.info = RuntimeInfo("onnxruntime", ort.__version__, "cpu", options)

    def run(self, inputs: Arrays) -> tuple[NDArray[np.generic], ...]:
        """Compute all outputs of one batch, ``(batch, …)`` each, in the order of ``outputs``."""
        feed = {spec.name: array for spec, array in zip(self.inputs, inputs, strict=True)}
        return tuple(self._session.run(self._names, feed))

    def predict(self, inputs: Arrays) -> NDArray[np.generic]:
        """Compute the first output of one batch, ``(batch, …)``; see :func:`~compressor.runtimes.batching.predict`."""
        return predict(self.run, self.inputs, inputs)

    def kernels(self) -> KernelCounts:
        """Count the operators of the graph as ONNX Runtime optimised it for this machine.

        Returns:
            The counts. ``precision`` is ``int8`` when any kernel or any QuantizeLinear in the graph is int8, so that
            a quantized model in which no kernel ended up in int8 shows 0 of n.

        Raises:
            RuntimeUnavailableError: ONNX Runtime cannot load the file again.
        """
        graph = _optimised(self._path)
        by_op = Counter(node.op_type for node in _nodes(graph))
        low = sum(count for op, count in by_op.items() if op in INT8_KERNELS)
        left: dict[str, str] = {}
        for index, node in enumerate(_nodes(graph)):
            if node.op_type in FLOAT_KERNELS:
                left[_unique(node.name or f"{node.op_type}_{index}", left)] = _why_float(node, graph)
        quantized = low > 0 or any("QuantizeLinear" in op for op in by_op)
        return KernelCounts(
            compute=low + len(left),
            low_precision=low,
            precision="int8" if quantized else "fp32",
            by_op=dict(sorted(by_op.items())),
            left=left if quantized else {},
        )


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning thread burns CPU between calls: an arm that waits would be charged to the one that runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _load(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base but Exception
        raise RuntimeUnavailableError(f"ONNX Runtime cannot load it: {error}", where=path) from error


def _spec(value: Any) -> TensorSpec:
    kind = _TYPES.get(value.type, value.type.removeprefix("tensor(").removesuffix(")"))
    return TensorSpec(value.name, kind, tuple(size if isinstance(size, int) else None for size in value.shape))


def _optimised(path: Path) -> onnx.GraphProto:
    """Let ONNX Runtime write the graph that it would run, and read it without its weights."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimised.onnx"
        options = _options(1)
        options.optimized_model_filepath = str(file)
        # Weights go to a second file that is never read, which also keeps models above 2 GB possible.
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "optimised.onnx.data"
        )
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        _load(path, options)
        return onnx.load(str(file), load_external_data=False).graph


def _nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    """All nodes, those of branches and loop bodies included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _unique(name: str, taken: dict[str, str]) -> str:
    count = 2
    candidate = name
    while candidate in taken:
        candidate = f"{name} ({count})"
        count += 1
    return candidate


def _why_float(node: onnx.NodeProto, graph: onnx.GraphProto) -> str:
    """Say what is known of why a compute operator has no int8 kernel."""
    producers = {name: maker.op_type for maker in graph.node for name in maker.output}
    fed = {producers.get(name, "") for name in node.input}
    constants = {tensor.name for tensor in graph.initializer}
    if "DequantizeLinear" in fed:
        return "quantized in the file, but ONNX Runtime has no int8 kernel for it here"
    if "MatMul" in node.op_type and not constants & set(node.input):
        return "multiplies two activations, not weights"
    if node.op_type in ("GRU", "RNN", "Einsum", "DeformConv"):
        return f"ONNX Runtime has no int8 kernel for {node.op_type}"
    return "not quantized in the file"


def open_session(path: Path, threads: int) -> OnnxRuntimeSession:
    """Load an ONNX file.

    Args:
        path: The file, its external data beside it.
        threads: Threads that one call may use.

    Returns:
        The loaded model.

    Raises:
        RuntimeUnavailableError: ONNX Runtime cannot load it.
    """
    return OnnxRuntimeSession(path, threads)

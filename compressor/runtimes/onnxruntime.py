"""ONNX Runtime: runs an ONNX file, and tells which kernels its optimised graph is made of.

On a GPU it runs by its CUDA provider, or by TensorRT's. Inputs and outputs are arrays in the computer's memory, so a
call returns when its outputs have been copied back: nothing is left in the GPU's queue at the edge of a window.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from compressor.errors import RuntimeUnavailableError
from compressor.model.base import Arrays
from compressor.results import KernelCounts, RuntimeInfo, TensorSpec
from compressor.runtimes.batching import predict, unique
from compressor.runtimes.device import cuda_index, no_gpu

if TYPE_CHECKING:
    import onnx

# fmt: off
INT8_KERNELS = frozenset({
    "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat",
    "NhwcQLinearConv", "QAttention", "QGemm", "QLinearConv", "QLinearConvTranspose", "QLinearMatMul",
})
"""Kernels that multiply in int8 (ONNX Runtime's ``docs/OperatorKernels.md``)."""

NBITS_KERNELS = frozenset({"MatMulBnb4", "MatMulNBits"})
"""Kernels that unpack weights of few bits as they multiply; the attribute ``bits`` says how many, 4 by default."""

FLOAT_KERNELS = frozenset({
    "Attention", "Conv", "ConvTranspose", "DeformConv", "Einsum", "FusedConv", "FusedGemm", "FusedMatMul", "GRU",
    "Gemm", "LSTM", "MatMul", "MultiHeadAttention", "NhwcFusedConv", "RNN", "TransposeMatMul",
})
"""Kernels that do a model's arithmetic in the type of their inputs."""
# fmt: on

_HALVES = {10: "fp16", 16: "bf16"}
"""ONNX's numbers of the 16-bit float types."""

_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
}


Providers = Sequence[str | tuple[str, Mapping[str, int | str]]]
CACHE_VARIABLE = "COMPRESSOR_TENSORRT_CACHE"
"""Names the folder of TensorRT's engines, which the workers of one benchmark share."""

CPU_PROVIDER, CUDA_PROVIDER, TENSORRT_PROVIDER = (f"{kind}ExecutionProvider" for kind in ("CPU", "CUDA", "Tensorrt"))


def require(device: str, tensorrt: bool = False) -> None:
    """See that ONNX Runtime has the provider for a device.

    Raises:
        RuntimeUnavailableError: It has not.
    """
    name = "onnxruntime-tensorrt" if tensorrt else "onnxruntime"
    if cuda_index(device) is None:
        if tensorrt:
            raise RuntimeUnavailableError(
                "runs on a GPU only", where=name, mend="add --device cuda, or use onnxruntime"
            )
        return
    wanted = TENSORRT_PROVIDER if tensorrt else CUDA_PROVIDER
    if wanted not in ort.get_available_providers():
        raise no_gpu(name, f"the installed package has no {wanted}, which onnxruntime-gpu has")


class OnnxRuntimeSession:
    """An ONNX file loaded by ONNX Runtime.

    Attributes:
        info: The runtime, its version and every option that is not its default.
        inputs: The model's inputs.
        outputs: Its outputs.
    """

    def __init__(self, path: Path, threads: int, device: str, tensorrt: bool) -> None:
        self._path = path
        self._providers = _providers(path, device, tensorrt)
        self._session = _load(path, _options(threads), self._providers)
        self._names = [value.name for value in self._session.get_outputs()]
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())
        options = {
            "intra_op_num_threads": str(threads),
            "inter_op_num_threads": "1",
            "session.intra_op.allow_spinning": "0",
            "log_severity_level": "3",
            "providers": ",".join(self._session.get_providers()),
        }
        index = cuda_index(device)
        if index is not None:
            options["use_tf32"] = "TensorRT's own choice" if tensorrt else "0"
        name = "onnxruntime-tensorrt" if tensorrt else "onnxruntime"
        self.info = RuntimeInfo(name, ort.__version__, "cpu" if index is None else f"cuda:{index}", options)

    def run(self, inputs: Arrays) -> tuple[NDArray[np.generic], ...]:
        """Compute all outputs of one batch, ``(batch, …)`` each, in the order of ``outputs``."""
        feed = {spec.name: array for spec, array in zip(self.inputs, inputs, strict=True)}
        return tuple(self._session.run(self._names, feed))

    def predict(self, inputs: Arrays) -> NDArray[np.generic]:
        """Compute the first output of one batch, ``(batch, …)``; see :func:`~compressor.runtimes.batching.predict`."""
        return predict(self.run, self.inputs, inputs, self.outputs)

    def kernels(self) -> KernelCounts | None:
        """Count the operators of the graph as ONNX Runtime optimised it for this machine.

        Returns:
            The counts; ``None`` for TensorRT, which does not show its graph. ``precision`` is what the file asks for,
            whether or not any kernel ended up in it, so that a model that is quantized in vain shows 0 of n;
            ``int4+int8`` if it asks for both.

        Raises:
            RuntimeUnavailableError: ONNX Runtime cannot load the file again.
        """
        if _name(self._providers[0]) == TENSORRT_PROVIDER:
            return None
        graph = _optimised(self._path, self._providers)
        nodes = list(_nodes(graph))
        by_op = Counter(node.op_type for node in nodes)
        asked = _half_types(self._path)
        types = _float_types(graph) if asked else {}
        low: Counter[str] = Counter()
        left: dict[str, str] = {}
        for index, node in enumerate(nodes):
            if precision := _low_precision(node, types):
                low[precision] += 1
            elif node.op_type in FLOAT_KERNELS:
                left[unique(node.name or f"{node.op_type}_{index}", left)] = _why_float(node, graph, asked)
        quantized = {"int8"} if any("QuantizeLinear" in op for op in by_op) else set()
        precisions = sorted({*low, *quantized, *asked})
        return KernelCounts(
            compute=low.total() + len(left),
            low_precision=low.total(),
            precision="+".join(precisions) or "fp32",
            by_op=dict(sorted(by_op.items())),
            left=left if precisions else {},
        )


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning thread burns CPU between calls: an arm that waits would be charged to the one that runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _providers(path: Path, device: str, tensorrt: bool) -> Providers:
    """Which providers may run a node, the preferred one first; the CPU takes what the GPU's cannot."""
    index = cuda_index(device)
    if index is None:
        return [CPU_PROVIDER]
    # Left alone it multiplies float32 in TF32, which PyTorch does not: a precision would be compared for a runtime.
    cuda = (CUDA_PROVIDER, {"device_id": index, "use_tf32": 0})
    if not tensorrt:
        return [cuda, CPU_PROVIDER]
    return [(TENSORRT_PROVIDER, {"device_id": index, **_engine_cache(path)}), cuda, CPU_PROVIDER]


def _engine_cache(path: Path) -> dict[str, int | str]:
    """Where TensorRT keeps the engine that it builds of a file, which takes minutes; nowhere if nobody says where.

    ONNX Runtime tells engines apart by the graph and the file's name, not by the weights: each file gets a folder.
    """
    if CACHE_VARIABLE not in os.environ:
        return {}
    about = path.stat()
    identity = f"{path.resolve()} {about.st_size} {about.st_mtime_ns}"
    folder = Path(os.environ[CACHE_VARIABLE]) / hashlib.sha256(identity.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(folder)}


def _name(provider: str | tuple[str, Mapping[str, int | str]]) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _load(path: Path, options: ort.SessionOptions, providers: Providers) -> ort.InferenceSession:
    try:
        session = ort.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # its exceptions share no base but Exception
        raise RuntimeUnavailableError(f"ONNX Runtime cannot load it: {error}", where=path) from error
    # A provider whose libraries do not load is left out with a line in a log: the CPU would be measured for the GPU.
    if (got := session.get_providers()[0]) != (wanted := _name(providers[0])):
        raise RuntimeUnavailableError(
            f"{wanted} did not start, ONNX Runtime fell back to {got}",
            where=path,
            mend="install the CUDA, cuDNN or TensorRT libraries that this onnxruntime-gpu was built for",
        )
    # Else a provider that fails in a call is replaced by the CPU's for this and all later calls.
    session.disable_fallback()
    return session


def _spec(value: Any) -> TensorSpec:
    kind = _TYPES.get(value.type, value.type.removeprefix("tensor(").removesuffix(")"))
    return TensorSpec(value.name, kind, tuple(size if isinstance(size, int) else None for size in value.shape))


def _optimised(path: Path, providers: Providers) -> onnx.GraphProto:
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
        _load(path, options, providers)
        return onnx.load(str(file), load_external_data=False).graph


def _nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    """All nodes, those of branches and loop bodies included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _low_precision(node: onnx.NodeProto, types: Mapping[str, str]) -> str | None:
    """The precision below float32 in which a compute operator runs, if it does."""
    if node.op_type in INT8_KERNELS:
        return "int8"
    if node.op_type in NBITS_KERNELS:
        return f"int{next((attribute.i for attribute in node.attribute if attribute.name == 'bits'), 4)}"
    return types.get(node.input[0]) if node.op_type in FLOAT_KERNELS else None


def _half_types(path: Path) -> list[str]:
    """The 16-bit types that a file has weights of."""
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    return sorted({_HALVES[tensor.data_type] for tensor in proto.graph.initializer if tensor.data_type in _HALVES})


def _float_types(graph: onnx.GraphProto) -> dict[str, str]:
    """Tensors that are 16-bit floats in an optimised graph.

    The graph does not tell the types of what ONNX Runtime's own operators put out. All that compute in 16 bits keep the
    type of their first input, and a Cast says what it makes.
    """
    found = {tensor.name: _HALVES[tensor.data_type] for tensor in graph.initializer if tensor.data_type in _HALVES}
    for value in graph.input:
        if kind := _HALVES.get(value.type.tensor_type.elem_type):
            found[value.name] = kind
    for node in graph.node:
        if node.op_type == "Cast":
            kind = _HALVES.get(next(attribute.i for attribute in node.attribute if attribute.name == "to"))
        else:
            kind = found.get(node.input[0]) if node.input else None
        if kind:
            found.update((name, kind) for name in node.output)
    return found


def _why_float(node: onnx.NodeProto, graph: onnx.GraphProto, asked: list[str]) -> str:
    """Say what is known of why a compute operator has no kernel of low precision."""
    if asked:
        return f"ONNX Runtime has no {asked[0]} kernel for it here and casts to float32"
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


def open_session(path: Path, threads: int, device: str = "cpu", tensorrt: bool = False) -> OnnxRuntimeSession:
    """Load an ONNX file.

    Args:
        path: The file, its external data beside it.
        threads: Threads that one call may use.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        tensorrt: Whether TensorRT builds its engine for what it can run, rather than CUDA's kernels.

    Returns:
        The loaded model.

    Raises:
        RuntimeUnavailableError: ONNX Runtime cannot load it.
    """
    return OnnxRuntimeSession(path, threads, device, tensorrt)

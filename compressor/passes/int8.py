"""int8 for ONNX Runtime's CPU provider, as fits the architecture: the wrong kind is slower than fp32.

Convolutions get fixed ranges from calibration (static, as QuantizeLinear/DequantizeLinear pairs, so that neighbours
such as residual sums and pooling stay in int8 too); matrix products of transformers and LSTMs get theirs at run time
(dynamic), because their activations' ranges differ too much from input to input. Types are set by the target CPU.

Source: ONNX Runtime, "Quantize ONNX models", sections on method selection and on data types by CPU.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from compressor.errors import MethodError, nearest
from compressor.onnx_file import is_large, save_onnx
from compressor.passes.base import Context
from compressor.passes.calibration import activation_ranges, check_examples
from compressor.passes.rewrites import pool_pictures, prepare, split_gemms, spread_hard_activations
from compressor.results import Step
from compressor.task.base import Examples

if TYPE_CHECKING:
    import onnx

Mode = Literal["auto", "static", "dynamic"]

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
PRODUCTS = frozenset({"MatMul", "Gemm"})

# fmt: off
STATIC_OPS = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "ConvTranspose", "Flatten", "Gemm", "GlobalAveragePool",
    "LeakyRelu", "MatMul", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
)
# fmt: on
"""Operators with an int8 kernel, or that pass int8 through; the rest of the graph stays fp32."""

SEQUENCE_OPS = frozenset({"Attention", "GRU", "LSTM", "LayerNormalization", "MultiHeadAttention", "RNN"})
"""Signs of a transformer or a recurrence, whose activations fixed ranges fit badly; so is a product of activations."""


@dataclass(frozen=True)
class Int8:
    """8-bit weights and activations.

    Attributes:
        mode: ``auto`` chooses per part of the graph; ``static`` and ``dynamic`` force one kind everywhere it exists.
    """

    name: ClassVar[str] = "int8"
    mode: Mode = "auto"

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise MethodError(f"has no mode '{self.mode}'", where="int8", mend=nearest(self.mode, get_args(Mode)))

    def apply(self, source: Path, target: Path, context: Context) -> Step:
        """Write the quantized model; see :class:`~compressor.passes.base.GraphPass`.

        Raises:
            MethodError: The model is quantized already or has nothing to quantize, the calibration data cannot serve,
                or ONNX Runtime's quantizer gave up.
        """
        types = Types.of(context.cpu_features)
        with tempfile.TemporaryDirectory(prefix=".int8.", dir=target.parent) as folder, _quiet():
            try:
                proto = prepare(source, Path(folder))
                if self.mode != "dynamic":
                    pool_pictures(proto.graph)
                    spread_hard_activations(proto.graph)
                plan = choose(proto, self.mode)
                if plan.static:
                    examples = context.task.calibration()
                    proto = _static(proto, plan, types, examples, context.threads, Path(folder))
                if plan.dynamic:
                    proto = _dynamic(proto, plan, types, Path(folder))
            except MethodError:
                raise
            except Exception as error:  # asserts, ValueErrors and ONNX Runtime's own, which share no base
                reason = str(error).strip() or type(error).__name__
                raise MethodError(f"ONNX Runtime's quantizer gave up: {reason}", where=source) from error
        _clean(proto)
        save_onnx(proto, target)
        settings: dict[str, str | int | float | bool | None] = {
            "mode": self.mode,
            "activations": types.activation,
            "weights": "int8 per channel",
            "reduce_range": types.reduce_range,
            "calibration": "minimum and maximum" if plan.static else "none",
        }
        return Step("int8", settings, (*plan.notes, *types.notes))


@dataclass(frozen=True)
class Types:
    """The integer types that a CPU computes fastest and without overflow.

    Attributes:
        activation: ``uint8`` or ``int8``; weights are always ``int8``, per channel.
        reduce_range: Whether weights use 7 bits.
        notes: Why.
    """

    activation: str
    reduce_range: bool
    notes: tuple[str, ...]

    @classmethod
    def of(cls, features: tuple[str, ...]) -> Types:
        """Choose by instruction sets, as ONNX Runtime's documentation advises for CPUs.

        Args:
            features: As :class:`~compressor.results.Environment` names them.

        Returns:
            The types.
        """
        have = {feature.lower() for feature in features}
        if have & {"asimddp", "asimd", "neon", "i8mm", "dotprod"}:
            return cls("int8", False, ("Types: int8 activations, as ARM multiplies signed by signed.",))
        if any("vnni" in feature for feature in have) or "amx_int8" in have:
            return cls("uint8", False, ("Types: uint8 activations, int8 weights, as VNNI multiplies.",))
        if have & {"avx2", "avx512f", "avx"}:
            return cls(
                "uint8",
                True,
                ("Types: uint8 activations, 7-bit weights: without VNNI, sums of two 8-bit products can saturate.",),
            )
        return cls("uint8", False, ("Types: uint8 activations, int8 weights; the target's CPU is not known.",))


@dataclass(frozen=True)
class Plan:
    """Which nodes are quantized how.

    Attributes:
        static: Names of nodes that get fixed ranges, those that only pass int8 on included.
        dynamic: Names of nodes whose ranges are found at run time.
        notes: What was chosen and why, one sentence each.
    """

    static: tuple[str, ...]
    dynamic: tuple[str, ...]
    notes: tuple[str, ...]


def choose(proto: onnx.ModelProto, mode: Mode) -> Plan:
    """Choose between static and dynamic for each part of a graph.

    Args:
        proto: The model; every node has a name of its own.
        mode: ``auto``, or one kind to force.

    Returns:
        The plan.

    Raises:
        MethodError: Nothing in the graph can be quantized so.
    """
    graph = proto.graph
    weights = {tensor.name for tensor in graph.initializer if tensor.data_type == tensor.FLOAT}
    convolutions, products, recurrences = [], [], []
    for node in graph.node:
        weighted = len(node.input) > 1 and node.input[1] in weights
        if node.op_type in CONVOLUTIONS and weighted:
            convolutions.append(node)
        elif node.op_type in PRODUCTS and weighted and _is_plain(node):
            products.append(node)
        elif node.op_type == "LSTM" and weighted and node.input[2] in weights:
            recurrences.append(node)
    sequences = [node for node in graph.node if _is_sequence(node, weights)]
    static, dynamic = [*convolutions, *products], []
    if mode == "dynamic" or (mode == "auto" and not convolutions):
        static, dynamic = [], [*products, *recurrences]
    elif mode == "auto" and sequences:
        static, dynamic = convolutions, [*products, *recurrences]
    if not static and not dynamic:
        kinds = "convolution or matrix product" if mode == "static" else "matrix product or LSTM"
        kinds = "convolution, matrix product or LSTM" if mode == "auto" else kinds
        raise MethodError(f"there is nothing to quantize: no {kinds} with float32 weights", where="int8")
    names = {node.name for node in static}
    if static:
        # What lies between convolutions passes int8 on; what comes after a sequence's operators stays as it is.
        others = {node.name for node in (*sequences, *products, *recurrences)} - names
        late = _downstream(graph, others)
        names |= {node.name for node in graph.node if node.op_type in STATIC_OPS and node.name not in late}
    notes = []
    if static:
        notes.append(f"Static int8 (ranges from calibration): {_count(static)}.")
    if dynamic:
        notes.append(f"Dynamic int8 (ranges found in every call, over the whole batch): {_count(dynamic)}.")
    if static and (gates := sum(node.op_type == "Sigmoid" and node.name in names for node in graph.node)):
        notes.append(
            f"{gates} Sigmoid (of SiLU, mostly) and their products run as int8 operators of their own, which fp32 "
            "fuses: the gain is small here, and may be a loss."
        )
    if left := [node for node in graph.node if node.op_type in ("GRU", "RNN")]:
        notes.append(f"Left in fp32, for lack of an int8 kernel: {_count(left)}.")
    return Plan(
        tuple(node.name for node in graph.node if node.name in names),
        tuple(node.name for node in dynamic),
        tuple(notes),
    )


def _is_plain(node: onnx.NodeProto) -> bool:
    """Whether a product is input times weight plus bias; Gemm can also scale, and transpose its input."""
    values = {
        attribute.name: attribute.f if attribute.name in ("alpha", "beta") else attribute.i
        for attribute in node.attribute
    }
    return values.get("alpha", 1.0) == 1.0 and values.get("beta", 1.0) == 1.0 and not values.get("transA", 0)


def _count(nodes: list[onnx.NodeProto]) -> str:
    kinds = sorted({node.op_type for node in nodes})
    return ", ".join(f"{sum(node.op_type == kind for node in nodes)} {kind}" for kind in kinds)


def _is_sequence(node: onnx.NodeProto, weights: set[str]) -> bool:
    product = node.op_type in PRODUCTS and not weights & set(node.input)
    return product or node.op_type in SEQUENCE_OPS


def _downstream(graph: onnx.GraphProto, starts: set[str]) -> set[str]:
    """Names of some nodes and of all that come after them."""
    touched: set[str] = set()
    late: set[str] = set()
    for node in graph.node:  # in topological order, as ONNX demands
        if node.name in starts or touched & set(node.input):
            late.add(node.name)
            touched |= set(node.output)
    return late


def _static(
    proto: onnx.ModelProto, plan: Plan, types: Types, examples: Examples, threads: int, folder: Path
) -> onnx.ModelProto:
    """Write QuantizeLinear/DequantizeLinear pairs around the planned nodes, with ranges from calibration."""
    import numpy as np
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import TensorData, TensorsData, save_tensors_data

    check_examples(examples, proto)
    ranges = activation_ranges(proto, plan.static, examples, folder, threads)
    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, data), folder / "ranges.json")
    save_onnx(proto, folder / "float.onnx")
    quantize_static(
        str(folder / "float.onnx"),
        str(folder / "static.onnx"),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(STATIC_OPS),
        nodes_to_quantize=list(plan.static),
        per_channel=True,
        reduce_range=types.reduce_range,
        activation_type=QuantType.QUInt8 if types.activation == "uint8" else QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibration_cache_path=folder / "ranges.json",
        use_external_data_format=is_large(proto),
    )
    return onnx.load(str(folder / "static.onnx"))


def _dynamic(proto: onnx.ModelProto, plan: Plan, types: Types, folder: Path) -> onnx.ModelProto:
    """Quantize the weights of the planned nodes, and their activations in every call."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = split_gemms(proto, set(plan.dynamic))
    save_onnx(proto, folder / "mixed.onnx")
    quantize_dynamic(
        str(folder / "mixed.onnx"),
        str(folder / "dynamic.onnx"),
        op_types_to_quantize=["LSTM", "MatMul"],
        nodes_to_quantize=nodes,
        per_channel=True,
        reduce_range=types.reduce_range,
        weight_type=QuantType.QInt8,
        use_external_data_format=is_large(proto),
    )
    return onnx.load(str(folder / "dynamic.onnx"))


def _clean(proto: onnx.ModelProto) -> None:
    """Drop what the tools note down or infer and the operator sets that nothing uses; other runtimes know fewer."""
    proto.ClearField("metadata_props")
    proto.graph.ClearField("value_info")
    proto.producer_name, proto.producer_version = "compressor", ""
    used = {"", *(node.domain for node in proto.graph.node)}
    kept = [entry for entry in proto.opset_import if entry.domain in used or proto.functions]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's advice and ONNX Runtime's notes on unused weights from the user.

    They are about the intermediate files of this pass (pre-processing, weights that fusing left unused).
    """
    import onnxruntime as ort

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    ort.set_default_logger_severity(3)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ort.set_default_logger_severity(2)
        logging.disable(before)

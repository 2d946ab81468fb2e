"""What each method would touch in a model and what it would leave, and why; nothing is calibrated, timed or trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import CompressorError, MethodError
from compressor.passes.embeddings import tables
from compressor.passes.int8_plan import Mode, choose, generates
from compressor.passes.int8_rewrites import fit_for_int8
from compressor.passes.qdq import quiet
from compressor.passes.rewrites import prepare

if TYPE_CHECKING:
    import onnx

    from compressor.model.base import TorchModel

COMPUTE_OPS = frozenset({
    "Attention", "Conv", "ConvTranspose", "DeformConv", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "MultiHeadAttention",
    "RNN",
})  # fmt: skip
"""Operators that do a model's arithmetic."""

ROWS = "stored in int8, row by row"


@dataclass(frozen=True)
class Preview:
    """What a method would do.

    Attributes:
        method: Its name.
        touched: Name of each layer that it would change, and how.
        left: Name of each layer that it would leave alone, and why.
        refused: Why it would do nothing at all; empty if it would do something.
    """

    method: str
    touched: Mapping[str, str]
    left: Mapping[str, str]
    refused: str = ""


def preview_graph(source: Path, folder: Path) -> tuple[onnx.ModelProto | None, tuple[Preview, ...]]:
    """Say what the methods on the ONNX graph would do.

    Args:
        source: The ONNX file.
        folder: For what lies between.

    Returns:
        The graph as the methods see it, by whose names rules go, or ``None`` if it is quantized already; and one
        preview per method.
    """
    methods: dict[str, Callable[[onnx.ModelProto], tuple[dict[str, str], dict[str, str]]]] = {
        "int8": partial(_int8, mode="auto", method="int8"),
        "int8-static": partial(_int8, mode="static", method="int8-static"),
        "int8-dynamic": partial(_int8, mode="dynamic", method="int8-dynamic"),
        "smoothquant": _smoothquant,
        "int4": partial(_weight_only, bits=4),
        "int8-weight-only": partial(_weight_only, bits=8),
        "fp16": _fp16,
    }
    with quiet():
        try:
            proto = prepare(source, folder)
        except MethodError as error:
            return None, tuple(Preview(method, {}, {}, error.what) for method in methods)
    return proto, tuple(_tried(method, partial(work, proto)) for method, work in methods.items())


def preview_torch(model: TorchModel) -> tuple[Preview, ...]:
    """Say what the methods on the PyTorch model would do.

    Args:
        model: The model; unchanged.

    Returns:
        One preview per method.
    """
    methods = {"prune": _prune, "prune-unstructured": _masks, "prune-2:4": _fours, "bf16": _bf16}
    return tuple(_tried(method, partial(work, model)) for method, work in methods.items())


def _tried(method: str, work: Callable[[], tuple[dict[str, str], dict[str, str]]]) -> Preview:
    try:
        touched, left = work()
    except CompressorError as error:
        return Preview(method, {}, {}, str(error).removeprefix(f"{method}: "))
    return Preview(method, touched, left)


def _int8(proto: onnx.ModelProto, mode: Mode, method: str) -> tuple[dict[str, str], dict[str, str]]:
    import onnx

    if mode == "auto" and generates(proto.graph):
        return _weight_only(proto, 8)
    fitted = onnx.ModelProto()
    fitted.CopyFrom(proto)
    if mode != "dynamic":
        fit_for_int8(fitted.graph)
    plan = choose(fitted, mode, method)
    where = " where it pays" if mode == "auto" else ""
    touched = {layer: f"{'dynamic' if layer in plan.dynamic else 'static'} int8{where}" for layer in plan.layers}
    touched |= dict.fromkeys(plan.tables, ROWS)
    why = {"dynamic": {"Conv": "no dynamic int8 kernel worth running"}, "static": {"LSTM": "only dynamic int8 runs it"}}
    return touched, _others(proto, touched, {"ConvTranspose": "no int8 kernel chosen for it", **why.get(mode, {})})


def _smoothquant(proto: onnx.ModelProto) -> tuple[dict[str, str], dict[str, str]]:
    from compressor.passes.smoothquant import layers_of

    products, every = layers_of(proto)
    touched = {name: "smoothed, static int8" if name in products else "static int8" for name in every}
    return touched, _others(proto, touched, {"LSTM": "only dynamic int8 runs it"})


def _weight_only(proto: onnx.ModelProto, bits: int) -> tuple[dict[str, str], dict[str, str]]:
    from compressor.passes.weight_only import packable

    touched = dict.fromkeys(packable(proto), f"{bits}-bit weights")
    if not touched:
        raise MethodError("there is nothing to quantize: no matrix product with float32 weights")
    touched |= dict.fromkeys(tables(proto.graph), ROWS)
    kinds = ("Conv", "ConvTranspose", "GRU", "LSTM", "RNN")
    return touched, _others(proto, touched, dict.fromkeys(kinds, f"no int{bits} weight-only kernel"))


def _fp16(proto: onnx.ModelProto) -> tuple[dict[str, str], dict[str, str]]:
    from compressor.passes.half import blocked_ops, weighted

    blocked = blocked_ops()
    layers = weighted(proto)
    if not layers:
        raise MethodError("there is nothing to convert: no float32 weights")
    touched = {name: "float16" for name, op in layers.items() if op not in blocked}
    return touched, {name: f"{op} has no float16 form" for name, op in layers.items() if op in blocked}


def _others(proto: onnx.ModelProto, touched: Mapping[str, str], reasons: Mapping[str, str]) -> dict[str, str]:
    """The layers that do arithmetic and are not touched, and why."""
    weights = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    left = {}
    for node in proto.graph.node:
        if node.op_type not in COMPUTE_OPS or node.name in touched:
            continue
        held = [weights[name] for name in node.input if name in weights]
        if not held:
            left[node.name] = "multiplies two activations"
        elif 1 not in held:  # TensorProto.FLOAT
            left[node.name] = "its weights are not float32"
        elif node.op_type in ("GRU", "RNN", "Einsum", "DeformConv"):
            left[node.name] = "no int8 kernel"
        else:
            left[node.name] = reasons.get(node.op_type, "not a plain product with a weight")
    return left


def _prune(model: TorchModel) -> tuple[dict[str, str], dict[str, str]]:
    from compressor.passes.hf_prune import channel_graph
    from compressor.passes.prune import NOTHING_GOES, Prune

    graph = channel_graph(model)
    names = frozenset(layer.name for layer in graph.layers)
    touched: dict[str, str] = {}
    for index, group in enumerate(graph.groups(names, Prune().round_to), 1):
        most = group.allowed(len(group.classes))
        if most:
            how = f"group {index}: up to {most} of {len(group.classes)} units may go"
            touched |= {name: f"{touched[name]}; {how}" if name in touched else how for name in group.layers}
    if not touched:
        raise MethodError(f"no channel can be removed: {NOTHING_GOES}")
    why = "its output channels are the model's, too few, or tied to what is not followed"
    if graph.untouchable:
        why += f" ({', '.join(graph.untouchable)})"
    return touched, {layer.name: why for layer in graph.layers if layer.name not in touched}


def _masks(model: TorchModel) -> tuple[dict[str, str], dict[str, str]]:
    from compressor.passes.graph import ChannelGraph

    layers = ChannelGraph(model).layers
    touched = {layer.name: "zeros; saves nothing in a dense runtime" for layer in layers if layer.op != "embedding"}
    return touched, {layer.name: "an embedding" for layer in layers if layer.op == "embedding"}


def _fours(model: TorchModel) -> tuple[dict[str, str], dict[str, str]]:
    from compressor.passes.graph import ChannelGraph
    from compressor.passes.prune_masks import comes_in_fours

    graph = ChannelGraph(model)
    touched, left = {}, {}
    for layer in graph.layers:
        if comes_in_fours(layer, graph.parameters[layer.weight]):
            touched[layer.name] = "2 zeros in every 4; saves nothing in a dense runtime"
        else:
            left[layer.name] = "its inputs do not come in fours"
    return touched, left


def _bf16(model: TorchModel) -> tuple[dict[str, str], dict[str, str]]:
    from compressor.passes.bf16 import Bf16

    layers = Bf16().layers(model)
    if not layers:
        raise MethodError("there is nothing to convert: no layer does arithmetic")
    return dict.fromkeys(layers, "bfloat16, for PyTorch to run"), {}

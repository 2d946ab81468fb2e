"""Which nodes become int8 and how: by the graph's architecture and the target's instruction sets.

Convolutions get fixed ranges from calibration (static), so that neighbours such as residual sums and pooling stay in
int8 too; matrix products of transformers and LSTMs get theirs at run time (dynamic), because their activations' ranges
differ too much from input to input. A perceptron's do too, by rule; :mod:`~compressor.passes.int8` tries fixed ones
where it may time them. Types are set by the target CPU.

Source: ONNX Runtime, "Quantize ONNX models", sections on method selection and on data types by CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from compressor.errors import MethodError
from compressor.passes.embeddings import tables
from compressor.passes.rewrites import inputs_of
from compressor.rules import Rule, decide, touched

if TYPE_CHECKING:
    import onnx

Mode = Literal["auto", "static", "dynamic"]

GROUPS = 6
"""Static layers are timed in this many runs of neighbours, dynamic ones in this many kinds, at most."""

SCHEMES = ("dynamic", "static")
"""What a rule can say of how a layer becomes int8."""

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

ROUNDING_OPS = frozenset({"Add", "Concat", "Mul", "Resize", "Sigmoid"})
"""Those of them that bring their inputs to one scale or round anew: worth it only on the way to an int8 layer."""

POOLING_OPS = frozenset({"AveragePool", "GlobalAveragePool", "MaxPool"})

SEQUENCE_OPS = frozenset({"Attention", "GRU", "LSTM", "LayerNormalization", "MultiHeadAttention", "RNN"})
"""Signs of a transformer or a recurrence, whose activations fixed ranges fit badly; so is a product of activations."""


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
        layers: The nodes with weights among both, in the graph's order, with their operators.
        notes: What was chosen and why, one sentence each.
        excluded: Those of ``layers`` that the rules leave alone.
        perceptron: Whether the dynamic layers are all of a multilayer perceptron's, which fixed ranges can serve too.
        tables: The nodes that read an embedding, whose table is stored in int8.
    """

    static: tuple[str, ...]
    dynamic: tuple[str, ...]
    layers: dict[str, str]
    notes: tuple[str, ...]
    excluded: frozenset[str] = frozenset()
    perceptron: bool = False
    tables: tuple[str, ...] = ()


def choose(proto: onnx.ModelProto, mode: Mode, method: str, rules: Sequence[Rule] = ()) -> Plan:
    """Choose between static and dynamic for each part of a graph.

    Args:
        proto: The model; every node has a name of its own.
        mode: ``auto``, or one kind to force.
        method: The method's name, for its errors.
        rules: Which layers to touch, and how if not as the architecture suggests.

    Returns:
        The plan.

    Raises:
        MethodError: Nothing in the graph can be quantized so.
        RecipeError: A rule matches nothing.
    """
    graph = proto.graph
    weights = {
        tensor.name: len(tensor.dims)
        for tensor in graph.initializer
        if tensor.data_type == tensor.FLOAT and all(tensor.dims)
    }
    convolutions, products, recurrences = [], [], []
    flat: set[str] = set()  # products that fixed ranges can serve
    for node in graph.node:
        weighted = len(node.input) > 1 and node.input[1] in weights
        if node.op_type in CONVOLUTIONS and weighted and not _is_grouped_transpose(node):
            convolutions.append(node)
        elif node.op_type in PRODUCTS and weighted and is_plain(node):
            products.append(node)
            flat |= {node.name} if weights[node.input[1]] == 2 else set()
        elif node.op_type == "LSTM" and weighted and node.input[2] in weights:
            recurrences.append(node)
    constants = {tensor.name for tensor in graph.initializer}
    sequences = [node for node in graph.node if _is_sequence(node, constants)]
    static = [*convolutions, *(node for node in products if node.name in flat)]
    dynamic = [node for node in products if node.name not in flat and mode == "auto"]
    if mode == "dynamic" or (mode == "auto" and not convolutions):
        static, dynamic = [], [*products, *recurrences]
    elif mode == "auto" and sequences:
        static, dynamic = convolutions, [*products, *recurrences]
    every = [*convolutions, *products, *recurrences]
    embedded = tables(graph)
    static, dynamic, excluded = _ruled(static, dynamic, every, flat, embedded, rules, method)
    if not static and not dynamic:
        kinds = "convolution or matrix product" if mode == "static" else "matrix product or LSTM"
        kinds = "convolution, matrix product or LSTM" if mode == "auto" else kinds
        raise MethodError(f"there is nothing to quantize: no {kinds} with float32 weights", where=method)
    layers = {node.name for node in (*static, *dynamic)}
    if excluded >= layers:
        raise MethodError("the rules leave no layer to quantize", where=method, mend="exclude fewer layers")
    names = {node.name for node in static}
    if static:
        # What lies between convolutions passes int8 on; what comes after a sequence's operators stays as it is.
        others = {node.name for node in (*sequences, *products, *recurrences)} - names
        late = _downstream(graph, others)
        exposed = _exposed(graph)
        passing = {
            node.name
            for node in graph.node
            if node.op_type in STATIC_OPS
            and node.name not in late
            and not (node.op_type in CONVOLUTIONS | PRODUCTS and constants & set(node.input))
            and not (node.op_type in ("Clip", "Relu") and exposed & {node.input[0], node.output[0]})
        }
        names = _passed_on(graph, names, passing, constants)
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
        {node.name: node.op_type for node in graph.node if node.name in layers},
        tuple(notes),
        frozenset(excluded & layers),
        perceptron=flat >= {node.name for node in dynamic}
        and not (static or sequences or any(rule.scheme for rule in rules)),
        tables=tuple(name for name in embedded if name not in excluded),
    )


def timed_groups(proto: onnx.ModelProto, plan: Plan) -> list[tuple[str, ...]]:
    """Layers that are decided on together when they are timed.

    Static layers: runs of neighbours, since int8 pays by staying in int8. Dynamic ones: by operator and size of the
    weight, since each stands for itself.

    Args:
        proto: The model in fp32.
        plan: What can become int8.

    Returns:
        The groups, at most :data:`GROUPS` of static and as many of dynamic layers.
    """
    static = [layer for layer in plan.layers if layer not in plan.dynamic]
    count = min(GROUPS, len(static))
    ends = [len(static) * index // max(count, 1) for index in range(count + 1)]
    groups = [tuple(static[a:b]) for a, b in pairwise(ends)]
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in proto.graph.initializer}
    kinds: dict[tuple[int, str], list[str]] = {}
    for node in proto.graph.node:
        if node.name in plan.dynamic:
            kinds.setdefault((sizes[node.input[1]], node.op_type), []).append(node.name)
    dynamic = [tuple(kinds[kind]) for kind in sorted(kinds, reverse=True)]
    if len(dynamic) > GROUPS:
        dynamic[GROUPS - 1 :] = [tuple(layer for group in dynamic[GROUPS - 1 :] for layer in group)]
    return [*groups, *dynamic]


def _ruled(
    static: list[onnx.NodeProto],
    dynamic: list[onnx.NodeProto],
    every: list[onnx.NodeProto],
    flat: set[str],
    embedded: Mapping[str, str],
    rules: Sequence[Rule],
    method: str,
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto], set[str]]:
    """What becomes static and dynamic under the rules, and the names of what they leave alone."""
    if not rules:
        return static, dynamic, set()
    layers = {**{node.name: node.op_type for node in every}, **embedded}
    ways = {name: rule.scheme for name, rule in decide(layers, rules).items() if rule.scheme}
    for node in every:
        lacking = {"Conv": "dynamic", "ConvTranspose": "dynamic", "LSTM": "static"}.get(node.op_type)
        if node.op_type in PRODUCTS and node.name not in flat:
            lacking = "static"
        if (way := ways.get(node.name)) and way == lacking:
            raise MethodError(
                f"{node.op_type} '{node.name}' has no {way} int8 kernel worth running",
                where=method,
                mend=f"add kinds to the rule, such as '{way} * matmul gemm'",
            )
    before = {"static": {node.name for node in static}, "dynamic": {node.name for node in dynamic}}
    chosen = {
        kind: [node for node in every if (ways[node.name] == kind if node.name in ways else node.name in names)]
        for kind, names in before.items()
    }
    return chosen["static"], chosen["dynamic"], layers.keys() - touched(layers, rules)


def is_plain(node: onnx.NodeProto) -> bool:
    """Whether a product is input times weight plus bias; Gemm can also scale, and transpose its input."""
    values = {
        attribute.name: attribute.f if attribute.name in ("alpha", "beta") else attribute.i
        for attribute in node.attribute
    }
    return values.get("alpha", 1.0) == 1.0 and values.get("beta", 1.0) == 1.0 and not values.get("transA", 0)


def generates(graph: onnx.GraphProto) -> bool:
    """Whether a graph is that of a causal language model with a cache."""
    return any(value.name.startswith("past_key_values.") for value in graph.input)


def _is_grouped_transpose(node: onnx.NodeProto) -> bool:
    """Whether ONNX Runtime's quantizer gives a node fewer scales than it has outputs (1.31)."""
    return node.op_type == "ConvTranspose" and any(each.name == "group" and each.i > 1 for each in node.attribute)


def _exposed(graph: onnx.GraphProto) -> set[str]:
    """Activations that are not for other nodes of the graph alone: outputs, and what branches and loop bodies read.

    ONNX Runtime's quantizer looks at neither when it lets a Relu or a Clip vanish into the range before it (1.31).
    """
    inside = {name for node in graph.node for name in set(inputs_of(node)) - set(node.input)}
    return inside | {value.name for value in graph.output}


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


def _passed_on(graph: onnx.GraphProto, layers: Set[str], passing: Set[str], constants: Set[str]) -> set[str]:
    """The layers that become static, and what is worth being int8 around them.

    That is what has a way to such a layer or to pooling, which makes the data small; the rest of it is where all that
    feeds it is int8 and where nothing is rounded anew. A transformer's class token, put beside the patches in one
    range, would lose all its small values for nothing.
    """
    ends = layers | {node.name for node in graph.node if node.name in passing and node.op_type in POOLING_OPS}
    wanted: set[str] = set()
    ahead: set[str] = set()
    for node in reversed(graph.node):
        if node.name in ends or (node.name in passing and wanted & set(node.output)):
            ahead.add(node.name)
            wanted |= set(node.input)
    low: set[str] = set()
    chosen = set()
    for node in graph.node:
        behind = node.name in passing and node.op_type not in ROUNDING_OPS and low >= set(node.input) - constants - {""}
        if node.name in ahead or behind:
            chosen.add(node.name)
            low |= set(node.output)
    return chosen

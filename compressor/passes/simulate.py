"""int8's rounding inside a traced graph, by torchao's fake quantization."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from compressor.errors import MethodError
from compressor.model.quiet import quiet_export

# Operator: where its input and its weight are among the arguments, and the weight's axis of output channels.
_LAYERS = {
    "aten::conv1d": (0, 1, 0),
    "aten::conv2d": (0, 1, 0),
    "aten::conv3d": (0, 1, 0),
    "aten::convolution": (0, 1, 0),
    "aten::conv_transpose1d": (0, 1, 1),
    "aten::conv_transpose2d": (0, 1, 1),
    "aten::conv_transpose3d": (0, 1, 1),
    "aten::linear": (0, 1, 0),
    "aten::addmm": (1, 2, 1),
    "aten::mm": (0, 1, 1),
    "aten::matmul": (0, 1, 1),
}
_PRODUCTS = {"aten::linear", "aten::addmm", "aten::mm", "aten::matmul"}
_TURNED = {"aten::permute", "aten::t", "aten::transpose"}
_SUMS = {"aten::add", "aten::add_", "aten::mul", "aten::mul_"}

_SEQUENCE_OPERATORS = {
    "aten::scaled_dot_product_attention", "aten::layer_norm", "aten::native_layer_norm", "aten::bmm",
    "aten::softmax", "aten::_softmax",
}  # fmt: skip
"""Signs of a transformer, whose products ``int8`` gives ranges at run time; a classifier's last softmax is none."""

_SHARE = 0.01
"""Weight of a batch in the running ranges of activations; torchao's default."""


class Simulated(nn.Module):
    """A graph that rounds as int8 does; ranges of activations follow the training batches only.

    Attributes:
        graph: The traced model with fake quantization in it; its parameters are named as in the model.
    """

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *inputs: Tensor) -> Any:
        """Run the graph."""
        return self.graph(*inputs)

    def train(self, mode: bool = True) -> Simulated:
        """Let activations' ranges move, or hold them."""
        from torchao.quantization.pt2e.fake_quantize import FakeQuantizeBase

        self.training = mode
        for part in self.graph.modules():
            # Weights are never held: their ranges are those of the weights as they are.
            if (
                isinstance(part, FakeQuantizeBase)
                and getattr(part.activation_post_process, "averaging_constant", 1) < 1
            ):
                part.enable_observer(mode)
        return self


def simulate(program: ExportedProgram, activation: str, reduce_range: bool, where: str) -> tuple[Simulated, int, str]:
    """Insert fake quantization before every convolution and product with a weight.

    Convolutions, and products outside transformers, get one range per activation that is learnt over the batches, as
    do the inputs of sums between them; products in transformers get the range of each batch.

    Args:
        program: The model traced in eval mode.
        activation: ``uint8`` or ``int8``.
        reduce_range: Whether weights use 7 bits.
        where: The method, for messages.

    Returns:
        The graph, how many layers round, and how activations' ranges are found.

    Raises:
        MethodError: There is no such layer, or torchao gave up.
    """
    with quiet_export():  # torchao logs what of itself it could not load, all of it for GPUs
        from torchao.quantization.pt2e import observer
        from torchao.quantization.pt2e.fake_quantize import FakeQuantize

        graph = program.module(check_guards=False)
    # Not torchao's fused kernel: its symmetric step is 0.4 % off ONNX Runtime's, half a step for large weights.
    low, high = (0, 255) if activation == "uint8" else (-128, 127)
    kind = torch.uint8 if activation == "uint8" else torch.int8
    largest = 64 if reduce_range else 127  # as ONNX Runtime's quantizer has it
    rounded: dict[tuple[Node, int | None], Node] = {}

    def round_argument(node: Node, index: int, axis: int | None, dynamic: bool) -> None:
        """Round an argument, once for all who take it; a weight along its axis."""
        source = node.args[index]
        if not isinstance(source, Node):  # a number
            return
        if (source, axis) not in rounded:
            name = f"rounding_{len(rounded)}"
            graph.add_submodule(
                name,
                FakeQuantize(
                    observer.MovingAverageMinMaxObserver, low, high, dtype=kind, qscheme=torch.per_tensor_affine,
                    averaging_constant=1 if dynamic else _SHARE,
                )
                if axis is None
                else FakeQuantize(
                    observer.MovingAveragePerChannelMinMaxObserver, -largest, largest, dtype=torch.int8,
                    qscheme=torch.per_channel_symmetric, ch_axis=axis, averaging_constant=1,
                ),
            )  # fmt: skip
            with graph.graph.inserting_before(node):
                rounded[source, axis] = graph.graph.call_module(name, (source,))
        node.update_arg(index, rounded[source, axis])

    nodes = list(graph.graph.nodes)
    sequence = any(_name(node) in _SEQUENCE_OPERATORS and _is_inner(node) for node in nodes)
    layers = {node: rest for node, *rest in _layers(graph)}
    for node in nodes:
        if node in layers:
            inner, weight, axis = layers[node]
            round_argument(node, inner, None, sequence and _name(node) in _PRODUCTS)
            round_argument(node, weight, axis, False)
        elif _name(node) in _SUMS and not sequence and all(_is_float(x) for x in node.args[:2]):
            round_argument(node, 0, None, False)
            round_argument(node, 1, None, False)
    if not layers:
        raise MethodError(
            "the model has no convolution and no product with a weight that int8 would round",
            where=where,
            mend="leave the method out",
        )
    graph.recompile()
    dynamic = sequence and any(_name(node) in _PRODUCTS for node in layers)
    return Simulated(graph), len(layers), "with the ranges of each batch" if dynamic else "with learnt ranges"


def _layers(model: torch.fx.GraphModule) -> Iterator[tuple[Node, int, int, int]]:
    """Each layer's node, which arguments its input and its weight are, and the weight's axis of output channels."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for node in model.graph.nodes:
        if _name(node) not in _LAYERS:
            continue
        inner_at, weight_at, axis = _LAYERS[_name(node)]
        inner, weight = node.args[inner_at], node.args[weight_at]
        if _name(node) == "aten::convolution" and node.args[6]:
            axis = 1  # transposed
        source = weight
        # Programs that were decomposed turn weights around before they multiply with them.
        while isinstance(source, Node) and _name(source) in _TURNED:
            source = source.args[0]
        if isinstance(source, Node) and source.op == "get_attr" and source.target in parameters and _is_float(inner):
            yield node, inner_at, weight_at, axis


def _is_float(value: object) -> bool:
    tensor = value.meta.get("val") if isinstance(value, Node) else None
    return isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.ndim > 0


def _name(node: Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else schema.name


def _is_inner(node: Node) -> bool:
    """Whether a node's result goes anywhere but out of the model."""
    return any(user.op != "output" for user in node.users)

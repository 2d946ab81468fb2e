"""Walking through a traced graph: what is known of its tensors, and what its operators are called with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compressor.passes.labels import Coupling, Factor, Labelled
from compressor.tracing import node_line

if TYPE_CHECKING:
    from torch.fx import Node

Value = Labelled | tuple[Labelled, ...] | None
"""What a node computes: a tensor, several, or no tensor."""

Handler = Callable[["Propagation", "Node", tuple[int, ...]], Value]
"""Carries channels through a call of an operator whose (first) result has the shape given."""


@dataclass(frozen=True, eq=False)
class Product:
    """A sum of products: a convolution, or a product of matrices.

    Attributes:
        node: The node in the graph.
        shape: The index space: one multiply-accumulate for each point of it.
        factors: The units along its axes.
        constant: Points per point of ``shape`` on axes that never shrink, such as a kernel's.
        weight: The node that holds the layer's weights; ``None`` for a product of two activations.
    """

    node: Node
    shape: tuple[int, ...]
    factors: tuple[Factor, ...]
    constant: int
    weight: Node | None


@dataclass
class Propagation:
    """What is known of the graph's tensors while it is walked through in order.

    Attributes:
        coupling: The units.
        values: What each node computes.
        products: The sums of products met so far.
        produced: Units that are a layer's outputs.
    """

    coupling: Coupling = field(default_factory=Coupling)
    values: dict[Node, Value] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    produced: list[Factor] = field(default_factory=list)

    def tensor(self, argument: Any) -> Labelled:
        """The tensor that an argument stands for.

        Raises:
            NotFollowedError: It is none.
        """
        value = self.values.get(argument) if hasattr(argument, "op") else None
        if not isinstance(value, Labelled):
            raise NotFollowedError
        return value

    def walk(self, node: Node, handler: Handler | None) -> None:
        """Add a call of an operator; without a handler for it, the channels that reach it become untouchable."""
        shapes = shapes_of(node)
        if operator_name(node) == "sym_size":  # of a free axis, on which there are no channels
            return
        try:
            value = handler(self, node, shapes[0] if shapes else ()) if handler and shapes is not None else None
            if handler is None or shapes is None:
                raise NotFollowedError
            found = tuple(each.shape for each in tensors_of(value))
            if found != tuple(shapes):
                raise NotFollowedError
            self.values[node] = value
        except NotFollowedError:
            self.values[node] = self._unknown(node, shapes)

    def _unknown(self, node: Node, shapes: list[tuple[int, ...]] | None) -> Value:
        reason = describe(node)
        for source in node.all_input_nodes:
            value = self.values.get(source)
            for each in tensors_of(value):
                for factor in each.factors:
                    self.coupling.freeze(factor, reason)
        if shapes is None:
            return None
        made = tuple(Labelled(shape) for shape in shapes)
        return made if isinstance(node.meta.get("val"), (tuple, list)) else made[0]


def tensors_of(value: Value) -> tuple[Labelled, ...]:
    """The tensors in what a node computes."""
    return value if isinstance(value, tuple) else () if value is None else (value,)


class NotFollowedError(Exception):
    """An operator is used in a way that no rule here describes."""


def describe(node: Node) -> str:
    """A node's operator and the line of the model it comes from, if known."""
    line = node_line(node)
    return f"{operator_name(node)} ({line})" if line else operator_name(node)


def operator_name(node: Node) -> str:
    """The operator's name without overload and in-place mark, e.g. ``conv2d``."""
    packet = getattr(node.target, "_overloadpacket", None)
    name = getattr(packet or node.target, "__name__", str(node.target))
    return name.rstrip("_") if packet is not None else name


def size_of(size: Any) -> int:
    """A size, that of the example where it is free."""
    return size if isinstance(size, int) else int(size.node.hint)


def shapes_of(node: Node) -> list[tuple[int, ...]] | None:
    """The shapes of what a node computes; ``None`` if that is no tensor, or its size is not known before it runs."""
    value = node.meta.get("val")
    tensors = value if isinstance(value, (tuple, list)) else (value,)
    if not tensors or not all(hasattr(tensor, "shape") for tensor in tensors):
        return None
    try:
        return [tuple(size_of(size) for size in tensor.shape) for tensor in tensors]
    except (TypeError, AttributeError):  # a size that depends on the data has no hint
        return None


def args_of(node: Node) -> tuple[Any, ...]:
    """The positional arguments of a call, whose types its operator decides."""
    return node.args


def arguments(node: Node) -> dict[str, Any]:
    """The operator's arguments by the names of its schema, defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        raise NotFollowedError
    found = {}
    for index, argument in enumerate(schema.arguments):
        if index < len(node.args):
            found[argument.name] = node.args[index]
        elif argument.name in node.kwargs:
            found[argument.name] = node.kwargs[argument.name]
        elif argument.has_default_value():
            found[argument.name] = argument.default_value
    return found


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return axis % rank if rank else 0


def axes_of(axes: Any, rank: int) -> list[int]:
    """Axes counted from the front; all of them if none is named."""
    if axes is None or axes == []:
        return list(range(rank))
    return [axis_of(axis, rank) for axis in (axes if isinstance(axes, (tuple, list)) else [axes])]


def fixed(p: Propagation, node: Node, x: Labelled, axes: Sequence[int]) -> tuple[Factor, ...]:
    """The factors of a tensor some of whose axes cannot shrink."""
    factors: list[Factor] = []
    for factor in x.factors:
        left: Factor | None = factor
        for axis in axes:
            left = p.coupling.freeze_axis(left, axis, describe(node)) if left is not None else None
        factors += [] if left is None else [left]
    return tuple(factors)


def on_axis(vector: Factor, axis: int, rank: int) -> Factor:
    """Lay units out along one axis."""
    return vector.reshape([vector.size if each == axis else 1 for each in range(rank)])

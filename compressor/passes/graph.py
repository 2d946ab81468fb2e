"""The traced graph of a model, with the channels that can be removed from it.

A model is pruned on its traced graph and not on its modules, so that it does not matter where it came from (a class,
an exported program, TorchScript), and so that the result needs no code to be loaded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compressor.passes.labels import Labelled, varied
from compressor.passes.operators import handler_of
from compressor.passes.propagation import Propagation, Value, args_of, operator_name, shapes_of, tensors_of
from compressor.tracing import trace

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

    from compressor.model.base import TorchModel
    from compressor.passes.grouping import Group

Removed = NDArray[np.bool_]
"""For each class whether it is to be removed; never so for class 0."""


@dataclass(frozen=True)
class Layer:
    """A layer with weights.

    Attributes:
        name: As in the model, e.g. ``layers.0.conv1``.
        op: Its operator, e.g. ``conv2d``.
        weight: Name of its weight.
        channels: The class of each of its output channels, ``(out,)``; empty if it has one channel only.
    """

    name: str
    op: str
    weight: str
    channels: NDArray[np.int64]


class ChannelGraph:
    """A traced model and the classes of channels that go together.

    Args:
        model: The model; it is not changed.

    Attributes:
        module: The traced graph; shares the model's weights.
        classes: The class of every unit; class 0 is never removed.
        count: Number of classes.
        weights: Names of the parameters and buffers, and their units.
        remarks: What else the report should say of what can go.

    Raises:
        ExportError: The model cannot be traced.
    """

    def __init__(self, model: TorchModel) -> None:
        self.model = model
        self.remarks: tuple[str, ...] = ()
        self.program = trace(model)
        self.module = live_graph(self.program)
        self._walk = Propagation()
        self.weights: dict[str, Labelled] = {}
        self._parameters = dict(self.module.named_parameters(remove_duplicate=False))
        self._build()
        self.classes = self._resolve()
        self.count = int(self.classes.max()) + 1

    def _build(self) -> None:
        known: dict[int, Labelled] = {}
        for node in self.module.graph.nodes:
            if node.op == "get_attr":
                tensor = attribute(self.module, node.target)
                if hasattr(tensor, "shape"):
                    # Weights that are shared under two names are one.
                    if id(tensor) not in known:
                        known[id(tensor)] = self._walk.coupling.new(tuple(tensor.shape))
                    self.weights[str(node.target)] = known[id(tensor)]
                    self._walk.values[node] = known[id(tensor)]
            elif node.op == "placeholder":
                shapes = shapes_of(node)
                self._walk.values[node] = Labelled(shapes[0]) if shapes else None
            elif node.op == "output":
                for source in node.all_input_nodes:
                    for value in tensors_of(self._walk.values.get(source)):
                        for factor in value.factors:
                            self._walk.coupling.freeze(factor)
            else:
                self._walk.walk(node, handler_of(node))

    def _resolve(self) -> NDArray[np.int64]:
        """Tie until what is left of every tensor is a box, and nothing can lose all of an axis."""
        coupling = self._walk.coupling
        factors = {id(f): f for value in self._walk.values.values() for each in tensors_of(value) for f in each.factors}
        factors |= {id(f): f for product in self._walk.products for f in product.factors}
        classes = coupling.solve()
        wide = [factor for factor in factors.values() if len(varied(factor)) > 1]
        for factor in wide:
            found = classes[factor]
            moving = [axis for axis in sorted(varied(factor)) if bool((found != found.take([0], axis)).any())]
            if len(moving) > 1:
                kept = max(moving, key=lambda axis: factor.shape[axis])
                for axis in moving:
                    if axis != kept:
                        coupling.tie(factor, axis)
                classes = coupling.solve()
        for factor in factors.values():
            found = classes[factor]
            if factor.size > 1 and bool((found == found.flat[0]).all()):
                coupling.freeze(factor.ravel()[:1])
        return coupling.solve()

    # --- what can be removed ---------------------------------------------------------------------------------------

    @property
    def none(self) -> Removed:
        """Nothing removed."""
        return np.zeros(self.count, dtype=np.bool_)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers with weights, in the order of the graph."""
        found: dict[str, Layer] = {}
        produced = np.zeros(self._walk.coupling.units, dtype=np.bool_)
        for factor in self._walk.produced:
            produced[factor.ravel()] = True
        uses: list[tuple[Node, Any]] = [(product.node, product.weight) for product in self._walk.products]
        uses += [(n, args_of(n)[0]) for n in self.module.graph.nodes if operator_name(n) == "embedding"]
        for node, weight in uses:
            full = "" if weight is None or weight.op != "get_attr" else str(weight.target)
            if full not in self._parameters or full in found:
                continue
            units = [f.ravel() for f in self.weights[full].factors if produced[f.ravel()].all()]
            owner, _, last = full.rpartition(".")
            name = owner if last == "weight" and owner else full.removesuffix("_weight")
            # A table of embeddings that is the output layer too is made along one axis and read out along the other.
            found_classes = [self.classes[each] for each in units]
            channels = max(found_classes, key=np.count_nonzero, default=np.zeros(0, dtype=np.int64))
            found[full] = Layer(name, operator_name(node), full, channels)
        return tuple(found.values())

    def width(self, layer: Layer) -> int:
        """Number of a layer's output channels."""
        return max(1, len(layer.channels))

    @cached_property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that the graph reads, without second names of the same one."""
        seen: dict[int, str] = {}
        for name in self.weights:
            if name in self._parameters:
                seen.setdefault(id(self._parameters[name]), name)
        return {name: self._parameters[name] for name in seen.values()}

    @cached_property
    def axes(self) -> tuple[NDArray[np.int64], ...]:
        """The classes along every axis of every tensor that has channels, without repetitions."""
        found = {}
        for value in self._walk.values.values():
            for tensor in tensors_of(value):
                for axis in range(len(tensor.shape)):
                    along = np.unique(self.along(tensor, axis))
                    if along.any():
                        found[along.tobytes()] = along
        return tuple(found.values())

    @property
    def untouchable(self) -> tuple[str, ...]:
        """Operators through which channels could not be followed."""
        return tuple(dict.fromkeys(reason for _, reason in self._walk.coupling.reasons))

    # --- what is left after removing -------------------------------------------------------------------------------

    def along(self, value: Labelled, axis: int) -> NDArray[np.int64]:
        """The class of every position along an axis, ``(size,)``; 0 where it stays."""
        found = np.zeros(value.shape[axis], dtype=np.int64)
        for factor in value.touching(axis):
            found = np.maximum(found, _line(self.classes[factor], axis))
        return found

    def kept(self, value: Labelled, axis: int, removed: Removed) -> NDArray[np.bool_]:
        """Which positions of an axis stay."""
        return ~removed[self.along(value, axis)]

    def flops(self, removed: Removed) -> int:
        """Floating-point operations of one example: two for each multiply-accumulate of convolutions and products."""
        return _points(self._products, removed) // self._batch

    @cached_property
    def _batch(self) -> int:
        shapes = {tuple(tensor.shape)[:1] for tensor in self.model.example_inputs}
        return int(shapes.pop()[0]) if len(shapes) == 1 and () not in shapes else 1

    @cached_property
    def _products(self) -> list[_Box]:
        return [self._box(Labelled(each.shape, each.factors), 2 * each.constant) for each in self._walk.products]

    @cached_property
    def _weights(self) -> list[_Box]:
        return [self._box(self.weights[name], 1) for name in self.parameters]

    def _box(self, value: Labelled, constant: int) -> _Box:
        """Split a space into the axes that may shrink and the number of points on all others."""
        moving = [axis for axis in range(len(value.shape)) if self.along(value, axis).any()]
        rest = prod(size for axis, size in enumerate(value.shape) if axis not in moving)
        return constant * rest, tuple(self.along(value, axis) for axis in moving)

    def parameter_count(self, removed: Removed) -> int:
        """Number of weights."""
        return _points(self._weights, removed)

    def groups(self, touched: frozenset[str], round_to: int) -> tuple[Group, ...]:
        """The classes that may be removed, by the layers that put them out.

        Args:
            touched: Names of the layers whose output channels may go.
            round_to: Widths are kept at multiples of this.
        """
        from compressor.passes.grouping import groups_of

        return groups_of(self, touched, round_to)

    def changes(self, after: ChannelGraph) -> list[str]:
        """What became of the widths in the smaller model, in sentences."""
        widths = {layer.weight: layer for layer in after.layers}
        changed: list[str] = []
        same: list[str] = []
        for layer in self.layers:
            now, was = after.width(widths[layer.weight]), self.width(layer)
            (changed if now != was else same).append(f"{layer.name} ({was} → {now})" if now != was else layer.name)
        notes = [f"Output channels: {', '.join(changed)}."]
        return [*notes, f"Kept at their width: {', '.join(same)}."] if same else notes

    def without(self, removed: Removed) -> TorchModel:
        """Build the model without some classes of channels.

        Raises:
            MethodError: The smaller graph does not run; names the operator and the line of the model.
        """
        from compressor.passes.rewriting import shrink

        return shrink(self, removed)

    def value(self, node: Node) -> Value:
        """What a node computes."""
        return self._walk.values.get(node)


_Box = tuple[int, tuple[NDArray[np.int64], ...]]


def _points(boxes: list[_Box], removed: Removed) -> int:
    stays = ~removed
    return sum(constant * prod(int(stays[axis].sum()) for axis in axes) for constant, axes in boxes)


def _line(found: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    """The part of a solved factor along one axis; zeros if it moves along another."""
    for other in range(found.ndim):
        if other != axis and found.shape[other] > 1:
            first = found.take([0], other)
            if bool((found != first).any()):
                return np.zeros(found.shape[axis], dtype=np.int64)
            found = first
    return found.ravel()


def live_graph(program: ExportedProgram) -> GraphModule:
    """A program's graph without checks of shapes and without what nobody reads.

    The second value of ``nn.MultiheadAttention`` is mostly dropped: the mean over its heads must not keep them.
    """
    module = program.module(check_guards=False)
    erase_checks(module)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def erase_checks(module: GraphModule) -> None:
    """Take out the checks of shapes that tracing writes into a graph: they hold sizes that are about to change."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and operator_name(node) == "_assert_tensor_metadata":
            module.graph.erase_node(node)


def attribute(module: torch.nn.Module, name: str) -> Any:
    """What a dotted name within a module stands for."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    return found

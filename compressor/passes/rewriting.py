"""Writing the smaller graph: weights cut, and sizes that the graph holds as constants brought up to date."""

from __future__ import annotations

import copy
import operator
from dataclasses import replace
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import ExportError, MethodError
from compressor.passes.labels import Labelled
from compressor.passes.propagation import args_of, arguments, describe, operator_name, shapes_of
from compressor.tracing import first_line, trace

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule, Node

    from compressor.model.base import TorchModel
    from compressor.passes.graph import ChannelGraph, Removed


def shrink(graph: ChannelGraph, removed: Removed) -> TorchModel:
    """Build a model without some classes of channels; its weights are its own.

    Args:
        graph: The traced model.
        removed: What to leave out.

    Returns:
        The model as it is traced anew; its ``steps`` are those of the old one.

    Raises:
        MethodError: The smaller graph does not run, or its outputs have other shapes.
    """
    from compressor.passes.graph import live_graph

    module = live_graph(graph.program)
    _cut_weights(graph, module, removed)
    return retraced(graph.model, _Sizes(graph, removed).rewrite(module))


def retraced(model: TorchModel, module: GraphModule) -> TorchModel:
    """Check that a changed graph runs and puts out what the model puts out, and trace it anew.

    Raises:
        MethodError: It does not; names the operator and the line of the model.
    """
    import torch

    module.recompile()
    with torch.no_grad():
        found, expected = _run(module, model), model.module(*model.example_inputs)
    if _shapes(found) != _shapes(expected):
        raise MethodError(
            f"the outputs would have the shapes {_shapes(found)} instead of {_shapes(expected)}", where=model.name
        )
    changed = replace(model, module=module)
    try:
        program = trace(changed)
    except ExportError as error:
        raise MethodError(f"the changed model cannot be traced: {error.what}", where=error.where) from error
    fresh = program.module(check_guards=False)
    fresh.requires_grad_(False)
    return replace(model, module=fresh)


def set_weight(module: GraphModule, name: str, tensor: torch.Tensor) -> None:
    """Put a weight of the graph in place of another, leaving the other as it is."""
    import torch

    owner, _, last = name.rpartition(".")
    holder = module.get_submodule(owner)
    if last in holder._parameters:
        holder._parameters[last] = torch.nn.Parameter(tensor, requires_grad=False)
    elif last in holder._buffers:
        holder._buffers[last] = tensor
    else:
        setattr(holder, last, tensor)


def own_weights(graph: ChannelGraph, module: GraphModule) -> dict[str, torch.Tensor]:
    """Give a graph copies of all its weights, shared ones shared still; returns them by every name they have."""
    from compressor.passes.graph import attribute

    made: dict[int, torch.Tensor] = {}
    found = {}
    for name in graph.weights:
        tensor = attribute(module, name)
        if id(tensor) not in made:
            made[id(tensor)] = tensor.detach().clone()
        found[name] = made[id(tensor)]
        set_weight(module, name, found[name])
    return found


def _cut_weights(graph: ChannelGraph, module: GraphModule, removed: Removed) -> None:
    import torch

    made: dict[int, torch.Tensor] = {}
    for name, tensor in own_weights(graph, module).items():
        if id(tensor) not in made:
            smaller = tensor
            for axis in range(tensor.ndim):
                stays = graph.kept(graph.weights[name], axis, removed)
                if not stays.all():
                    smaller = smaller.index_select(axis, torch.from_numpy(np.flatnonzero(stays)))
            made[id(tensor)] = smaller
        set_weight(module, name, made[id(tensor)])


class _Sizes:
    """Brings the constant sizes in a graph up to date."""

    def __init__(self, graph: ChannelGraph, removed: Removed) -> None:
        self.graph, self.removed = graph, removed

    def rewrite(self, module: GraphModule) -> GraphModule:
        """Change the sizes in place."""
        # The new graph has the nodes of the analysed one, by name; both came from the same program.
        analysed = {node.name: node for node in self.graph.module.graph.nodes}
        for node in list(module.graph.nodes):
            if node.op == "call_function" and node.name in analysed:
                self._node(node, analysed[node.name])
        return module

    def _node(self, node: Node, old: Node) -> None:
        name = operator_name(node)
        if name in {"view", "reshape", "_unsafe_view", "expand", "broadcast_to"}:
            self._sizes(node, old, 1, 0, may_infer=name not in {"expand", "broadcast_to"})
        elif name == "unflatten":
            value = self._value(old)
            given = arguments(old)
            self._sizes(node, old, 2, given["dim"] % (len(value.shape) - len(given["sizes"]) + 1), may_infer=True)
        elif name in {"layer_norm", "native_layer_norm", "rms_norm"}:
            value, shape = self._value(args_of(old)[0]), arguments(old)["normalized_shape"]
            first = len(value.shape) - len(shape)
            _set(node, "normalized_shape", [self._count(value, first + axis) for axis in range(len(shape))])
        elif name == "group_norm":
            value, groups = self._value(args_of(old)[0]), arguments(old)["num_groups"]
            if groups > 1:
                _set(node, "num_groups", self._count(value, 1) * groups // value.shape[1])
        elif name.startswith("conv"):
            given = arguments(old)
            if given["groups"] > 1:
                transposed = bool(given.get("transposed", "transpose" in name))
                across = self._value(old if transposed else given["input"])
                _set(node, "groups", self._count(across, 1) // self._count(self._value(given["weight"]), 1))
        elif name == "slice":
            self._slice(node, old)
        elif name in {"split", "split_with_sizes", "chunk", "tensor_split"}:
            self._split(node, old)

    def _value(self, node: Any) -> Labelled:
        value = self.graph.value(node)
        return value if isinstance(value, Labelled) else Labelled(())

    def _stays(self, value: Labelled, axis: int) -> NDArray[np.bool_]:
        return self.graph.kept(value, axis, self.removed)

    def _count(self, value: Labelled, axis: int) -> int:
        return int(self._stays(value, axis).sum())

    def _sizes(self, node: Node, old: Node, place: int, first: int, *, may_infer: bool) -> None:
        value, sizes = self._value(old), list(args_of(node)[place])
        for index, size in enumerate(sizes):
            axis = first + index
            count = self._count(value, axis)
            if count == value.shape[axis] or size == -1:
                continue
            if isinstance(size, int):
                sizes[index] = count
            elif may_infer and -1 not in sizes:
                sizes[index] = -1
            else:
                # A free size times a number of channels: scale it.
                common = gcd(count, value.shape[axis])
                with node.graph.inserting_before(node):
                    larger = node.graph.call_function(operator.mul, (size, count // common))
                    sizes[index] = node.graph.call_function(operator.floordiv, (larger, value.shape[axis] // common))
        if sizes != list(args_of(node)[place]):
            _set_args(node, place, sizes)

    def _slice(self, node: Node, old: Node) -> None:
        value, given = self._value(args_of(old)[0]), arguments(old)
        if not value.shape or not value.touching(axis := given["dim"] % len(value.shape)):
            return
        stays = self._stays(value, axis)
        if stays.all():  # such as positions up to a free length
            return
        low, high, _ = slice(given.get("start"), given.get("end")).indices(value.shape[axis])
        _set(node, "start", int(stays[:low].sum()))
        _set(node, "end", int(stays[:high].sum()))

    def _split(self, node: Node, old: Node) -> None:
        import torch

        value = self._value(args_of(old)[0])
        axis = arguments(old).get("dim", 0)
        axis %= max(len(value.shape), 1)
        if not value.shape or self._stays(value, axis).all():
            return
        ends = np.cumsum([shape[axis] for shape in shapes_of(old) or []])[:-1]
        pieces = [int(piece.sum()) for piece in np.split(self._stays(value, axis), ends)]
        node.target = torch.ops.aten.split_with_sizes.default
        node.args, node.kwargs = (args_of(node)[0], pieces, axis), {}


def _set_args(node: Node, place: int, value: Any) -> None:
    node.args = (*args_of(node)[:place], value, *args_of(node)[place + 1 :])


def _set(node: Node, name: str, value: Any) -> None:
    """Set an argument by its name in the operator's schema."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    place = names.index(name)
    if place < len(node.args):
        _set_args(node, place, value)
    else:
        node.kwargs = {**node.kwargs, name: value}


def _run(module: GraphModule, model: TorchModel) -> Any:
    """Run a graph on the model's example; a failure names the operator that failed."""
    from torch.fx import Interpreter

    class Runner(Interpreter):
        def run_node(self, n: Node) -> Any:
            self.node = n
            return super().run_node(n)

    runner = Runner(module, garbage_collect_values=True)
    try:
        return runner.run(*copy.deepcopy(model.example_inputs))
    except Exception as error:
        raise MethodError(
            f"{describe(runner.node)} does not run on fewer channels: {first_line(str(error))}",
            where=model.name,
            mend="write sizes as x.shape[...] or -1 there, or exclude the layers before it with a rule",
        ) from error


def _shapes(outputs: Any) -> list[tuple[int, ...]]:
    import torch
    from torch.utils._pytree import tree_leaves

    return [tuple(each.shape) for each in tree_leaves(outputs) if isinstance(each, torch.Tensor)]

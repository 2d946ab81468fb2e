"""How layers with weights, products and norms carry channels from their inputs to their outputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.passes.labels import Factor, Labelled, varied
from compressor.passes.propagation import (
    Handler,
    NotFollowedError,
    Product,
    Propagation,
    Value,
    args_of,
    arguments,
    describe,
    fixed,
    on_axis,
    operator_name,
    shapes_of,
)

if TYPE_CHECKING:
    from torch.fx import Node


def contract(
    p: Propagation, node: Node, operands: Sequence[Labelled], shape: tuple[int, ...], summed: Sequence[int]
) -> Labelled:
    """Multiply tensors that are laid out in a common index space, and sum over some of its axes.

    Channels that a weight sums over may go: that is what pruning is for. Where two activations are multiplied, as in
    attention, what is summed over keeps its size, because the model scales the sum by it.

    Returns:
        The result, with size 1 along the summed axes.
    """
    weights = [value for value in operands if value.static]
    coupled = p.coupling.couple(operands, shape)
    for value in weights:
        p.produced += [factor for factor in value.padded(len(shape)).factors if not varied(factor) & set(summed)]
    factors: list[Factor] = []
    for factor in coupled:
        left: Factor | None = factor
        if weights and varied(factor) <= set(summed):
            continue
        for axis in summed:
            left = p.coupling.freeze_axis(left, axis) if left is not None else None
        factors += [] if left is None else [left]
    weight = next((_weight_node(p, source) for source in node.all_input_nodes if _is_static(p, source)), None)
    p.products.append(Product(node, shape, coupled, 1, weight))
    kept = tuple(1 if axis in summed else size for axis, size in enumerate(shape))
    return Labelled(kept, tuple(factors), len(weights) == len(operands))


def _is_static(p: Propagation, node: Node) -> bool:
    value = p.values.get(node)
    return isinstance(value, Labelled) and value.static and len(value.shape) > 1


def _weight_node(p: Propagation, node: Node) -> Node | None:
    """The weight that a tensor computed from weights alone goes back to."""
    while node.op != "get_attr":
        node = next(source for source in node.all_input_nodes if p.values.get(source) is not None)
    return node


def _linear(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    given = arguments(node)
    x, weight = p.tensor(given["input"]), p.tensor(given["weight"])
    left = x.reshaped((*x.shape, 1))
    right = weight.permuted((1, 0)) if len(weight.shape) == 2 else weight.reshaped((*weight.shape, 1))
    space = (*x.shape, weight.shape[0] if len(weight.shape) == 2 else 1)
    made = contract(p, node, [left, right], space, [len(space) - 2]).reshaped(shape)
    return _with_bias(p, made, given["bias"])


def _with_bias(p: Propagation, made: Labelled, bias: Any) -> Labelled:
    if bias is None:
        return made
    return Labelled(made.shape, p.coupling.couple([made, p.tensor(bias)], made.shape), made.static)


def _matmul(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    return _product(p, node, p.tensor(args_of(node)[0]), p.tensor(args_of(node)[1]), shape)


def _addmm(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    made = _product(p, node, p.tensor(args_of(node)[1]), p.tensor(args_of(node)[2]), shape)
    return Labelled(shape, p.coupling.couple([made, p.tensor(args_of(node)[0])], shape), made.static)


def _product(p: Propagation, node: Node, x: Labelled, y: Labelled, shape: tuple[int, ...]) -> Labelled:
    if len(x.shape) < 2 or len(y.shape) < 2:
        raise NotFollowedError
    batch = shape[:-2]
    left = x.reshaped((*x.shape, 1))
    right = y.reshaped((*y.shape[:-2], 1, *y.shape[-2:]))
    space = (*batch, x.shape[-2], x.shape[-1], y.shape[-1])
    return contract(p, node, [left, right], space, [len(space) - 2]).reshaped(shape)


def _einsum(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    equation, tensors = str(args_of(node)[0]).replace(" ", ""), [p.tensor(each) for each in args_of(node)[1]]
    if not re.fullmatch(r"[a-zA-Z]+(,[a-zA-Z]+)*->[a-zA-Z]*", equation):
        raise NotFollowedError
    inputs, _, output = equation.partition("->")
    letters = output + "".join(sorted(set(inputs) - set(output) - {","}))
    sizes: dict[str, int] = {}
    operands = []
    for term, x in zip(inputs.split(","), tensors, strict=True):
        if len(set(term)) != len(term):
            raise NotFollowedError
        sizes |= {letter: size for letter, size in zip(term, x.shape, strict=True) if sizes.get(letter, 1) == 1}
        ordered = x.permuted([term.index(letter) for letter in letters if letter in term])
        size = dict(zip(term, x.shape, strict=True))
        operands.append(ordered.reshaped(tuple(size.get(letter, 1) for letter in letters)))
    space = tuple(sizes[letter] for letter in letters)
    if len(tensors) == 1:
        x = operands[0]
        left = (*space[: len(output)], *(1 for _ in letters[len(output) :]))
        return Labelled(left, fixed(p, node, x, range(len(output), len(letters))), x.static).reshaped(shape)
    if len(tensors) != 2:
        raise NotFollowedError
    return contract(p, node, operands, space, range(len(output), len(letters))).reshaped(shape)


def _convolution(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    given, name = arguments(node), operator_name(node)
    x, weight = p.tensor(given["input"]), p.tensor(given["weight"])
    transposed = bool(given.get("transposed", "transpose" in name))
    groups, kernel = given["groups"], prod(weight.shape[2:])
    if len(x.shape) != len(weight.shape) or not weight.static:
        raise NotFollowedError
    for axis in range(2, len(x.shape)):
        for factor in x.touching(axis):
            p.coupling.freeze_axis(factor, axis, describe(node))
        for factor in weight.touching(axis):
            p.coupling.freeze_axis(factor, axis)
    inside = p.coupling.vector(x, 1)
    # A transposed convolution's weight is (in, out/groups, …), a plain one's (out, in/groups, …).
    first, second = p.coupling.vector(weight, 0), p.coupling.vector(weight, 1)
    outside = _grouped(p, inside, first, second, groups, transposed)
    if given.get("bias") is not None:
        p.coupling.join(outside, p.coupling.vector(p.tensor(given["bias"]), 0))
    p.produced.append(outside)
    rank = len(shape)
    kept = [factor for factor in x.factors if factor.shape[1] == 1 and varied(factor) <= {0}]
    made = Labelled(shape, (*kept, *([on_axis(outside, 1, rank)] if shape[1] > 1 else [])), weight.static and x.static)
    # One multiply-accumulate per element of the weight (its axes 0 and 1 and its kernel), example and position: of the
    # output, or of a transposed convolution's input.
    positions = prod((x.shape if transposed else shape)[2:])
    factors = tuple(on_axis(each, place, 3) for place, each in ((1, first), (2, second)) if each.size > 1)
    space = (x.shape[0], *weight.shape[:2])
    p.products.append(Product(node, space, factors, kernel * positions, _weight_node(p, given["weight"])))
    return made


def _grouped(p: Propagation, x: Factor, first: Factor, second: Factor, groups: int, transposed: bool) -> Factor:
    """Join a convolution's channels; returns the output's, ``(out,)``.

    With groups, either whole groups go (always so for a depthwise convolution, whose groups are its channels), or the
    same channels of every group: whichever is the finer choice.
    """
    if groups == 1:
        p.coupling.join(x, first if transposed else second)
        return second if transposed else first
    blocks = first.reshape(groups, -1)
    inside = x.reshape(groups, -1)
    if groups >= max(second.size, inside.shape[1]):
        p.coupling.freeze(second)
        p.coupling.join(inside, inside[:, :1])
        p.coupling.join(blocks, inside[:, :1])
        if not transposed:
            return first
        return np.repeat(inside[:, 0], second.size)
    p.coupling.join(inside, inside[:1])
    p.coupling.join(blocks, blocks[:1])
    if not transposed:
        p.coupling.join(inside[0], second)
        return first
    p.coupling.join(blocks[0], inside[0])
    return np.tile(second, groups)


def _batch_norm(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    x = p.tensor(args_of(node)[0])
    vector = p.coupling.vector(x, 1)
    for source in node.all_input_nodes[1:]:
        p.coupling.join(vector, p.coupling.vector(p.tensor(source), 0))
    made = Labelled(x.shape, x.factors)
    values = node.meta["val"]
    if isinstance(values, (tuple, list)):  # the normalised tensor, and statistics that nobody reads in eval mode
        return (made, *(Labelled(each) for each in (shapes_of(node) or [])[1:]))
    return made


def _layer_norm(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    x = p.tensor(args_of(node)[0])
    weights = [p.tensor(each) for each in node.all_input_nodes[1:]]
    made = Labelled(x.shape, p.coupling.couple([x, *weights], x.shape))
    values = node.meta["val"]
    if isinstance(values, (tuple, list)):
        return (made, *(Labelled(each) for each in (shapes_of(node) or [])[1:]))
    return made


def _group_norm(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    x, groups = p.tensor(args_of(node)[0]), args_of(node)[1]
    vector = p.coupling.vector(x, 1)
    for source in node.all_input_nodes[1:]:
        p.coupling.join(vector, p.coupling.vector(p.tensor(source), 0))
    if groups > 1:
        # Whole groups go, so that the statistics of the others stay as they are.
        blocks = vector.reshape(groups, -1)
        p.coupling.join(blocks, blocks[:, :1])
    return Labelled(x.shape, x.factors)


def _embedding(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    weight, index = p.tensor(args_of(node)[0]), p.tensor(args_of(node)[1])
    for factor in (*index.factors, *weight.touching(0)):
        p.coupling.freeze(factor)
    vector = p.coupling.vector(weight, 1)
    p.produced.append(vector)
    return Labelled(shape, (on_axis(vector, len(shape) - 1, len(shape)),) if vector.size > 1 else ())


def _attention(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    """Scaled dot-product attention: heads are a batch axis, their width is fixed."""
    given = arguments(node)
    query, key, value = (p.tensor(given[name]) for name in ("query", "key", "value"))
    if given.get("enable_gqa") or len(query.shape) < 3:
        raise NotFollowedError
    turned = key.permuted((*range(len(key.shape) - 2), len(key.shape) - 1, len(key.shape) - 2))
    scores = _product(p, node, query, turned, (*shape[:-2], query.shape[-2], key.shape[-2]))
    if given.get("attn_mask") is not None:
        scores = Labelled(scores.shape, p.coupling.couple([scores, p.tensor(given["attn_mask"])], scores.shape))
    return _product(p, node, scores, value, shape)


def _recurrent(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    """LSTM, GRU and plain recurrent layers: their width stays, but what they compute counts.

    Every weight meets every example of every time step once.
    """
    given = arguments(node)
    if "input" not in given:  # a packed sequence
        raise NotFollowedError
    x = p.tensor(given["input"])
    weights = given["params"] if "params" in given else [given["w_ih"], given["w_hh"]]
    count = sum(prod(value.shape) for value in map(p.tensor, weights) if len(value.shape) > 1)
    p.products.append(Product(node, x.shape[:-1], (), count, None))
    raise NotFollowedError


def _prelu(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    x, slope = p.tensor(args_of(node)[0]), p.coupling.vector(p.tensor(args_of(node)[1]), 0)
    if slope.size > 1:
        p.coupling.join(p.coupling.vector(x, 1), slope)
    return Labelled(shape, x.factors, x.static)


LAYER_OPS: dict[Handler, str] = {
    _linear: "linear",
    _matmul: "matmul mm bmm",
    _addmm: "addmm baddbmm",
    _einsum: "einsum",
    _convolution: """
        conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
    """,
    _batch_norm: "batch_norm _native_batch_norm_legit_no_training instance_norm",
    _layer_norm: "layer_norm native_layer_norm rms_norm",
    _group_norm: "group_norm",
    _prelu: "prelu",
    _embedding: "embedding",
    _attention: "scaled_dot_product_attention",
    _recurrent: "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell",
}
"""Handlers and the operators they are for."""

"""How operators that move elements about, or take some of them, carry channels along."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compressor.passes.labels import Labelled, varied
from compressor.passes.propagation import (
    Handler,
    NotFollowedError,
    Propagation,
    Value,
    args_of,
    arguments,
    axes_of,
    axis_of,
    describe,
    fixed,
    on_axis,
    operator_name,
    shapes_of,
)

if TYPE_CHECKING:
    from torch.fx import Node


def _reshape(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    return p.tensor(args_of(node)[0]).reshaped(shape)


def _permute(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    x, given, name = p.tensor(args_of(node)[0]), arguments(node), operator_name(node)
    order = list(range(len(x.shape)))
    if name == "permute":
        order = axes_of(given["dims"], len(order))
    elif name in ("movedim", "moveaxis"):
        sources, places = (axes_of(given[key], len(order)) for key in ("source", "destination"))
        order = [axis for axis in order if axis not in sources]
        for place, axis in sorted(zip(places, sources, strict=True)):
            order.insert(place, axis)
    else:
        named = [given[key] for key in ("dim0", "dim1", "axis0", "axis1") if key in given]
        if len(order) < 2:
            return x
        one, other = axes_of(named or {"mT": [-2, -1]}.get(name, [0, 1]), len(order))
        order[one], order[other] = order[other], order[one]
    return x.permuted(order)


def _expand(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    x = p.tensor(args_of(node)[0]).padded(len(shape))
    if x.factors or x.static:
        return Labelled(shape, x.factors, x.static)
    # A mask is the same for every head: each copy goes with its head. Sizes that are free are no channels' axes.
    sizes = arguments(node).get("size", ())
    copied = [
        isinstance(size, int) and axis > 0 and x.shape[axis] == 1 and shape[axis] > 1 for axis, size in enumerate(sizes)
    ]
    copies = p.coupling.new(tuple(size if new else 1 for size, new in zip(shape, copied, strict=False)))
    return Labelled(shape, copies.factors if any(copied) else ())


def _repeat(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    x = p.tensor(args_of(node)[0]).padded(len(shape))
    factors = []
    for factor in x.factors:
        times = [shape[axis] // x.shape[axis] if factor.shape[axis] > 1 else 1 for axis in range(len(shape))]
        factors.append(np.tile(factor, times))
    return Labelled(shape, tuple(factors), x.static)


def _cat(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    tensors = [p.tensor(each) for each in args_of(node)[0]]
    axis = axis_of(arguments(node)["dim"], len(shape))
    if any(len(tensor.shape) != len(shape) for tensor in tensors):
        raise NotFollowedError
    static = all(tensor.static for tensor in tensors)
    along = any(tensor.touching(axis) for tensor in tensors)
    vector = np.concatenate([p.coupling.vector(tensor, axis) for tensor in tensors]) if along else None
    # What varies on other axes only has to agree between the parts.
    rest = []
    for tensor in tensors:
        sizes = tuple(1 if each == axis else size for each, size in enumerate(tensor.shape))
        rest.append(Labelled(sizes, tuple(factor for factor in tensor.factors if factor.shape[axis] == 1)))
    others = p.coupling.couple(rest, tuple(1 if each == axis else size for each, size in enumerate(shape)))
    return Labelled(shape, (*others, *([] if vector is None else [on_axis(vector, axis, len(shape))])), static)


def _stack(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    tensors = [p.tensor(each) for each in args_of(node)[0]]
    axis = axis_of(arguments(node)["dim"], len(shape))
    whole = tuple(1 if each == axis else size for each, size in enumerate(shape))
    coupled = p.coupling.couple([tensor.reshaped(whole) for tensor in tensors], whole)
    return Labelled(shape, coupled, all(tensor.static for tensor in tensors))


def cut(p: Propagation, node: Node, x: Labelled, axis: int, start: int, stop: int) -> Labelled:
    """A piece of a tensor along an axis."""
    shape = tuple(stop - start if each == axis else size for each, size in enumerate(x.shape))
    factors = []
    for factor in x.factors:
        if factor.shape[axis] == 1:
            factors.append(factor)
        elif varied(factor) != {axis}:
            factors.append(p.coupling.tie(factor, axis))
        else:
            piece = factor.take(range(start, stop), axis)
            if stop - start > 1:
                factors.append(piece)
            else:  # a single channel has no axis left to vary on
                p.coupling.freeze(piece)
    return Labelled(shape, tuple(factors), x.static)


def _slice(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    x, given = p.tensor(args_of(node)[0]), arguments(node)
    axis = axis_of(given["dim"], len(shape))
    if not x.touching(axis):
        return Labelled(shape, x.factors, x.static)
    start, stop = given.get("start") or 0, given.get("end")
    if given.get("step", 1) != 1 or not isinstance(start, int) or not isinstance(stop, int | None):
        raise NotFollowedError
    low, high, _ = slice(start, stop).indices(x.shape[axis])
    return cut(p, node, x, axis, low, high)


def _narrow(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    x, given = p.tensor(args_of(node)[0]), arguments(node)
    axis = axis_of(given["dim"], len(shape))
    for factor in x.touching(axis):
        p.coupling.freeze_axis(factor, axis, describe(node))
    return Labelled(shape, tuple(factor for factor in x.factors if factor.shape[axis] == 1), x.static)


def _split(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    x = p.tensor(args_of(node)[0])
    axis = axis_of(arguments(node)["dim"], len(shape))
    pieces, start = [], 0
    for piece in shapes_of(node) or []:
        pieces.append(cut(p, node, x, axis, start, start + piece[axis]))
        start += piece[axis]
    return tuple(pieces)


def _select(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    """One position of an axis (``select``), or each of them (``unbind``)."""
    x = p.tensor(args_of(node)[0])
    axis = axis_of(arguments(node)["dim"], len(x.shape))
    factors = fixed(p, node, x, [axis])
    size = tuple(1 if each == axis else length for each, length in enumerate(x.shape))
    made = Labelled(size, factors, x.static).reshaped(shape)
    values = node.meta["val"]
    return (made,) * len(values) if isinstance(values, (tuple, list)) else made


def _pixel_shuffle(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    x = p.tensor(args_of(node)[0])
    level = Labelled(x.shape, fixed(p, node, x, range(2, len(x.shape))))
    blocks = p.coupling.vector(level, 1).reshape(shape[1], -1)
    p.coupling.join(blocks, blocks[:, :1])
    return Labelled(shape, (on_axis(blocks[:, 0], 1, len(shape)),) if shape[1] > 1 else ())


def _channel_shuffle(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    x, groups = p.tensor(args_of(node)[0]), args_of(node)[1]
    # The same channels of every group go, so that there are as many groups as before.
    blocks = p.coupling.vector(x, 1).reshape(groups, -1)
    p.coupling.join(blocks, blocks[:1])
    others = [factor for factor in x.factors if factor.shape[1] == 1]
    return Labelled(shape, (*others, *([on_axis(blocks.T.ravel(), 1, len(shape))] if shape[1] > 1 else [])))


def _glu(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    x = p.tensor(args_of(node)[0])
    axis = axis_of(arguments(node)["dim"], len(shape))
    halves = [cut(p, node, x, axis, start, start + shape[axis]) for start in (0, shape[axis])]
    return Labelled(shape, p.coupling.couple(halves, shape), x.static)


SHAPE_OPS: dict[Handler, str] = {
    _reshape: "view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as",
    _permute: "permute transpose swapaxes swapdims t mT numpy_T movedim moveaxis",
    _expand: "expand expand_as broadcast_to",
    _repeat: "repeat tile",
    _cat: "cat concat concatenate",
    _stack: "stack",
    _slice: "slice",
    _narrow: "narrow",
    _split: "split split_with_sizes chunk tensor_split",
    _select: "select unbind",
    _glu: "glu",
    _pixel_shuffle: "pixel_shuffle",
    _channel_shuffle: "channel_shuffle native_channel_shuffle",
}
"""Handlers and the operators they are for."""

"""How each ATen operator carries channels from its inputs to its outputs.

An operator that is not in the tables makes the channels that reach it untouchable, and is named.
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING

import numpy as np

from compressor.passes.labels import Labelled
from compressor.passes.layer_ops import LAYER_OPS
from compressor.passes.propagation import (
    Handler,
    NotFollowedError,
    Propagation,
    Value,
    args_of,
    arguments,
    axes_of,
    fixed,
    on_axis,
    operator_name,
)
from compressor.passes.shape_ops import SHAPE_OPS

if TYPE_CHECKING:
    from torch.fx import Node


def _elementwise(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    tensors = [p.tensor(source) for source in node.all_input_nodes if p.values.get(source) is not None]
    if not tensors:
        return Labelled(shape)
    return Labelled(shape, p.coupling.couple(tensors, shape), all(tensor.static for tensor in tensors))


def _along(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    """Softmax and the like: every position along the axis matters to every other."""
    x, given = p.tensor(args_of(node)[0]), arguments(node)
    axes = given["dim"] if "dim" in given else given["dims"]
    return Labelled(shape, fixed(p, node, x, axes_of(axes, len(shape))), x.static)


def _reduction(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    x, given = p.tensor(args_of(node)[0]), arguments(node)
    axes = axes_of(given.get("dim"), len(x.shape))
    kept = Labelled(tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)), fixed(p, node, x, axes))
    made = Labelled(kept.shape, kept.factors, x.static).reshaped(shape)
    return (made, made) if isinstance(node.meta["val"], (tuple, list)) else made


def _spatial(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    """Pooling and resizing: the last axes change, the channels before them do not."""
    x = p.tensor(args_of(node)[0])
    digits = re.search(r"([123])d", operator_name(node))
    if digits is None:
        raise NotFollowedError
    rank = len(x.shape)
    made = Labelled(shape, fixed(p, node, x, range(rank - int(digits[1]), rank)), x.static)
    values = node.meta["val"]
    return (made,) * len(values) if isinstance(values, (tuple, list)) else made


def _pad(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    x, amounts = p.tensor(args_of(node)[0]), args_of(node)[1]
    rank = len(x.shape)
    name = operator_name(node)
    zeros = name == "constant_pad_nd" or (name == "pad" and arguments(node)["mode"] == "constant")
    factors = x.factors
    for index in range(len(amounts) // 2):
        axis, (low, high) = rank - 1 - index, amounts[2 * index : 2 * index + 2]
        if not low and not high:
            continue
        if not zeros or low < 0 or high < 0:
            factors = fixed(p, node, Labelled(x.shape, factors), [axis])
            continue
        kept = [factor for factor in factors if factor.shape[axis] == 1]
        if len(kept) < len(factors):
            # Channels of zeros, as in the shortcuts without weights of some residual networks.
            vector = np.pad(p.coupling.vector(Labelled(x.shape, factors), axis), (low, high))
            kept.append(on_axis(vector, axis, rank))
        factors = tuple(kept)
    return Labelled(shape, factors, x.static)


def _getitem(p: Propagation, node: Node, shape: tuple[int, ...]) -> Value:
    value, index = p.values.get(args_of(node)[0]), args_of(node)[1]
    if not isinstance(value, tuple) or not isinstance(index, int):
        raise NotFollowedError
    return value[index]


# fmt: off
ELEMENT_OPS: dict[Handler, str] = {
    _elementwise: """
        relu relu6 hardtanh hardswish hardsigmoid silu gelu sigmoid tanh leaky_relu elu selu celu mish softplus
        softsign logsigmoid log_sigmoid hardshrink softshrink threshold rrelu dropout feature_dropout alpha_dropout
        clone contiguous detach alias _to_copy to type_as lift_fresh_copy exp expm1 log log1p log2 sqrt rsqrt square neg
        abs sign reciprocal sin cos erf floor ceil round clamp clamp_min clamp_max pow add sub rsub mul div true_divide
        maximum minimum atan2 fmod remainder where masked_fill addcmul addcdiv lerp eq ne lt le gt ge logical_not
        logical_and logical_or bitwise_and bitwise_or bitwise_not isnan isinf nan_to_num float half double zeros_like
        ones_like full_like positive fill zero
    """,
    _along: "softmax _softmax log_softmax _log_softmax cumsum flip roll",
    _reduction: "mean sum amax amin max min var std argmax argmin any all prod logsumexp norm linalg_vector_norm",
    _spatial: """
        max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d
        avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
        adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d upsample_nearest1d upsample_nearest2d
        upsample_nearest3d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d upsample_linear1d
        _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    """,
    _pad: """
        pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
        replication_pad3d
    """,
}
# fmt: on
_HANDLERS = {
    name: handler
    for table in (ELEMENT_OPS, LAYER_OPS, SHAPE_OPS)
    for handler, names in table.items()
    for name in names.split()
}


def handler_of(node: Node) -> Handler | None:
    """The handler for a call; ``None`` if the operator is not understood."""
    if node.target is operator.getitem:
        return _getitem
    return _HANDLERS.get(operator_name(node)) if hasattr(node.target, "_schema") else None

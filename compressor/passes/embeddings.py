"""Tables of embeddings in int8, row by row: they save no time, and are most of the file of a small language model.

A call reads a few rows of a table, so they are made float32 again as they are read, by operators that every runtime
has: ``Gather`` of the levels, ``Cast``, and ``Mul`` by the ``Gather`` of the scales.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compressor.onnx_wire import array_of
from compressor.passes.rewrites import drop_unused, inputs_of, replace_nodes
from compressor.passes.rounding import quantize_symmetric

if TYPE_CHECKING:
    import onnx

LEAST = 2**18
"""Fewest values of a table that is worth the operators: 1 MiB in float32."""

_ROWS = 4096
"""Rows that are rounded at once, so that memory holds no second table in float32."""


def tables(graph: onnx.GraphProto) -> dict[str, str]:
    """The nodes that read rows of a float32 table, which nothing else reads.

    Args:
        graph: The model's.

    Returns:
        Name of each node to its operator, in the graph's order.
    """
    big = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == tensor.FLOAT and len(tensor.dims) == 2 and np.prod(tensor.dims, dtype=np.int64) >= LEAST
    }
    big -= {value.name for value in (*graph.input, *graph.output)}
    readers = Counter(name for node in graph.node for name in inputs_of(node) if name in big)
    found = [node for node in graph.node if _reads_rows(node) and node.input[0] in big]
    ours = Counter(node.input[0] for node in found)
    return {node.name: node.op_type for node in found if readers[node.input[0]] == ours[node.input[0]]}


def shrink(graph: onnx.GraphProto, names: Collection[str]) -> str:
    """Store the tables of some nodes in int8 with a scale per row, in place.

    The error of a value is at most half its row's scale, which is its row's largest magnitude / 127.

    Args:
        graph: The model's.
        names: Of the nodes, from :func:`tables`; one table of several nodes is stored once.

    Returns:
        What was done, in one sentence.
    """
    from onnx import TensorProto, helper, numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    stored: list[str] = []
    new: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name not in names:
            new.append(node)
            continue
        table, rows = node.input
        if table not in stored:
            stored.append(table)
            levels, scale = quantize_rows(array_of(weights[table]))
            graph.initializer.append(numpy_helper.from_array(levels, f"{table}_quantized"))
            graph.initializer.append(numpy_helper.from_array(scale, f"{table}_scale"))
        read, real, scales = (f"{node.output[0]}_{end}" for end in ("levels", "float", "scales"))
        new += [
            helper.make_node("Gather", [f"{table}_quantized", rows], [read], name=node.name, axis=0),
            helper.make_node("Cast", [read], [real], name=f"{node.name}_cast", to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{table}_scale", rows], [scales], name=f"{node.name}_scales", axis=0),
            helper.make_node("Mul", [real, scales], node.output, name=f"{node.name}_scale"),
        ]
    replace_nodes(graph, new)
    drop_unused(graph)
    sizes = ", ".join(" × ".join(f"{size:,}" for size in weights[name].dims) for name in stored)
    return f"Embeddings stored in int8 with a scale per row, to save room and not time: {sizes}."


def quantize_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a table to int8 around 0, row by row; the error is at most half a row's scale.

    Args:
        table: ``(rows, values)``.

    Returns:
        The levels, ``(rows, values)``, and the scales, ``(rows, 1)``.
    """
    levels, scale = np.empty(table.shape, np.int8), np.empty((len(table), 1), np.float32)
    for start in range(0, len(table), _ROWS):
        part = slice(start, start + _ROWS)
        rounded, scales = quantize_symmetric(table[part].T)
        levels[part], scale[part, 0] = rounded.T, scales
    return levels, scale


def _reads_rows(node: onnx.NodeProto) -> bool:
    return node.op_type == "Gather" and all(each.i == 0 for each in node.attribute if each.name == "axis")

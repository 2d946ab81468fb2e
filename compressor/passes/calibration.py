"""Calibration: the range of every activation over the calibration examples, kept as a running minimum and maximum.

ONNX Runtime's own calibrater either keeps every batch's ranges or, told to keep few
(``CalibMaxIntermediateOutputs``, 1.31), throws finished batches away unread; and it skips NaN. Hence this one: the
graph reduces each activation to two numbers per batch, so memory does not grow with the number of examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compressor.errors import MethodError
from compressor.model.base import Arrays
from compressor.task.base import Examples

if TYPE_CHECKING:
    import onnx

BATCH = 32
"""Examples per call where the model's batch axis is free."""


def check_examples(examples: Examples, proto: onnx.ModelProto) -> None:
    """Refuse calibration data from which no range can be learnt.

    Args:
        examples: The calibration examples.
        proto: The model that they are for.

    Raises:
        MethodError: There are none, they do not fit the model's inputs, hold NaN or infinity, or never vary.
    """
    from onnx import helper

    weights = {tensor.name for tensor in proto.graph.initializer}
    wanted = [value for value in proto.graph.input if value.name not in weights]
    mend = "give examples such as the model will see in use"
    if len(examples.inputs) != len(wanted):
        raise MethodError(
            f"the model takes {len(wanted)} inputs, the calibration data have {len(examples.inputs)}", mend=mend
        )
    if not wanted or len(examples) == 0:
        raise MethodError("there are no calibration examples", mend="give data, with some left for calibration")
    constant = []
    for array, value in zip(examples.inputs, wanted, strict=True):
        tensor = value.type.tensor_type
        kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
        where = f"calibration input '{value.name}'"
        fits = array.ndim == len(shape) and all(
            want in (None, have) for want, have in zip(shape[1:], array.shape[1:], strict=True)
        )
        if array.dtype.name != kind or not fits or len(array) != len(examples):
            sizes = ", ".join(["N", *("any" if size is None else str(size) for size in shape[1:])])
            raise MethodError(
                f"is {array.dtype.name} {array.shape}, the model takes {kind} ({sizes})", where=where, mend=mend
            )
        low, high = _span(array)
        if not np.isfinite(low) or not np.isfinite(high):
            raise MethodError("holds NaN or infinity", where=where, mend="remove those examples")
        if low == high:
            constant.append((where, low + 0.0))  # no -0
    if len(constant) == len(wanted):
        where, level = constant[0]
        raise MethodError(f"is {level:g} everywhere, so no range can be learnt", where=where, mend=mend)


def activation_ranges(
    proto: onnx.ModelProto, nodes: Iterable[str], examples: Examples, folder: Path, threads: int
) -> dict[str, tuple[float, float]]:
    """Run the examples through the model and keep the range of each activation.

    Args:
        proto: The model with its weights in memory and shapes inferred; unchanged.
        nodes: Names of the nodes whose inputs and outputs are wanted.
        examples: What to run.
        folder: Where to put the enlarged model.
        threads: Threads to run it on.

    Returns:
        Smallest and largest value of each floating-point activation.

    Raises:
        MethodError: An activation is not finite on these examples.
    """
    import onnxruntime as ort

    from compressor.onnx_file import save_onnx

    names = _activations(proto, set(nodes))
    path = folder / "calibration.onnx"
    save_onnx(_with_extremes(proto, names), path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = [value.name for value in session.get_inputs()]
    wanted = [f"{name}/{end}" for name in names for end in ("min", "max")]
    low = np.full(len(names), np.inf)
    high = np.full(len(names), -np.inf)
    for batch in _batches(examples.inputs, session.get_inputs()[0].shape):
        found = np.array(session.run(wanted, dict(zip(feeds, batch, strict=True))), dtype=np.float64)
        # np.minimum and np.maximum keep NaN, so that it is found below.
        low, high = np.minimum(low, found[0::2]), np.maximum(high, found[1::2])
    broken = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)))
    if broken.size:
        raise MethodError(
            "the activation is NaN or infinite on the calibration data",
            where=names[broken[0]],
            mend="check the model's weights and the data",
        )
    return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def _span(array: NDArray[np.generic]) -> tuple[float, float]:
    """Smallest and largest element; NaN if there is one."""
    if array.size == 0:
        return 0.0, 0.0
    return float(array.min()), float(array.max())


def _batches(inputs: Arrays, shape: list[int | str | None]) -> Iterator[Arrays]:
    """Cut the examples into calls; a fixed batch axis gets its last call filled up with the last example."""
    fixed = shape[0] if shape and isinstance(shape[0], int) else None
    size = fixed or BATCH
    for start in range(0, len(inputs[0]), size):
        batch = tuple(x[start : start + size] for x in inputs)
        missing = (fixed or 0) - len(batch[0])
        yield tuple(np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) for x in batch) if missing > 0 else batch


def _activations(proto: onnx.ModelProto, nodes: set[str]) -> list[str]:
    """Names of the floating-point activations around some nodes, in a fixed order."""
    import onnx

    graph = proto.graph
    weights = {tensor.name for tensor in graph.initializer}
    floats = {
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    around = (name for node in graph.node if node.name in nodes for name in (*node.input, *node.output))
    return list(dict.fromkeys(name for name in around if name in floats and name not in weights))


def _with_extremes(proto: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """A copy of the model that also puts out the minimum and maximum of each named activation."""
    import onnx
    from onnx import helper

    larger = onnx.ModelProto()
    larger.CopyFrom(proto)
    for name in names:
        for end, op in (("min", "ReduceMin"), ("max", "ReduceMax")):
            output = f"{name}/{end}"
            larger.graph.node.append(helper.make_node(op, [name], [output], name=output, keepdims=0))
            larger.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, []))
    return larger

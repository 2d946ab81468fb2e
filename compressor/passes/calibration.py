"""Calibration: the range of every activation over the calibration examples, kept as running numbers.

ONNX Runtime's own calibrater either keeps every batch's ranges or, told to keep few
(``CalibMaxIntermediateOutputs``, 1.31), throws finished batches away unread; and it skips NaN. Hence this one: the
graph reduces each activation to two numbers per batch, so memory does not grow with the number of examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from compressor.errors import MethodError
from compressor.model.base import Arrays
from compressor.task.base import Examples

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession

Calibration = Literal["minmax", "percentile", "entropy"]

BATCH = 32
"""Examples per call where the model's batch axis is free."""

VALUES_BYTES = 64 * 2**20
"""Activations that are held at once for the histograms."""


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
    proto: onnx.ModelProto,
    nodes: Iterable[str],
    examples: Examples,
    folder: Path,
    threads: int,
    *,
    method: Calibration = "minmax",
    percentile: float = 99.99,
) -> dict[str, tuple[float, float]]:
    """Run the examples through the model and keep the range of each activation.

    Args:
        proto: The model, shapes inferred; unchanged.
        nodes: Names of the nodes whose inputs and outputs are wanted.
        examples: What to run.
        folder: Where to put the enlarged model.
        threads: Threads to run it on.
        method: ``minmax`` keeps everything; the others run the examples a second time, into histograms of a fixed
            size, and cut rare large values off. See :mod:`~compressor.passes.histograms`.
        percentile: For ``percentile``: how much of the values the range holds, in percent.

    Returns:
        Smallest and largest value of each floating-point activation that the range is to hold.

    Raises:
        MethodError: An activation is not finite on these examples.
    """
    names = _activations(proto, set(nodes))
    ranges = _extremes(proto, names, examples, folder, threads)
    if method == "minmax":
        return ranges
    from compressor.passes.histograms import Histogram

    histograms = {name: Histogram(max(abs(low), abs(high))) for name, (low, high) in ranges.items()}
    for values in _values(proto, names, examples, folder, threads):
        for name, array in values.items():
            histograms[name].add(array)
    if method == "percentile":
        return {name: one.percentile(percentile, ranges[name]) for name, one in histograms.items()}
    return {name: one.entropy(ranges[name]) for name, one in histograms.items()}


def channel_maxima(
    proto: onnx.ModelProto, channels: Mapping[str, int], examples: Examples, folder: Path, threads: int
) -> dict[str, NDArray[np.float64]]:
    """Run the examples through the model and keep the largest absolute value in each channel of some activations.

    Args:
        proto: The model; unchanged.
        channels: Activation to the size of its last axis, which is the channels'.
        examples: What to run.
        folder: Where to put the enlarged model.
        threads: Threads to run it on.

    Returns:
        One array ``(channels,)`` per activation.
    """
    import onnx
    from onnx import helper

    larger = _copy(proto)
    for name, size in channels.items():
        shape = helper.make_tensor(f"{name}/shape", onnx.TensorProto.INT64, [2], [-1, size])
        larger.graph.initializer.append(shape)
        larger.graph.node.append(helper.make_node("Abs", [name], [f"{name}/abs"]))
        larger.graph.node.append(helper.make_node("Reshape", [f"{name}/abs", f"{name}/shape"], [f"{name}/rows"]))
        _reduce(larger, "ReduceMax", f"{name}/rows", [0], f"{name}/max")
    largest = {name: np.zeros(size) for name, size in channels.items()}
    session = _session(larger, folder, threads)
    for _, found in _runs(session, [f"{name}/max" for name in channels], examples.inputs, BATCH):
        for name, array in zip(channels, found, strict=True):
            largest[name] = np.maximum(largest[name], array)
    return largest


def channel_means(
    proto: onnx.ModelProto, ranks: Mapping[str, int], examples: Examples, folder: Path, threads: int
) -> dict[str, NDArray[np.float64]]:
    """Run the examples through the model and keep the mean of each channel of some activations.

    Args:
        proto: The model; unchanged.
        ranks: Activation ``(N, channels, …)`` to the number of its axes.
        examples: What to run.
        folder: Where to put the enlarged model.
        threads: Threads to run it on.

    Returns:
        One array ``(channels,)`` per activation.
    """
    larger = _copy(proto)
    for name, rank in ranks.items():
        _reduce(larger, "ReduceMean", name, [0, *range(2, rank)], f"{name}/mean")
    sums: list[NDArray[np.float64]] = []
    calls = 0
    session = _session(larger, folder, threads)
    for feed, found in _runs(session, [f"{name}/mean" for name in ranks], examples.inputs, BATCH):
        count = len(next(iter(feed.values())))
        arrays = [np.asarray(array, np.float64) * count for array in found]
        sums = [a + b for a, b in zip(sums, arrays, strict=True)] if sums else arrays
        calls += count
    return {name: array / calls for name, array in zip(ranks, sums, strict=True)}


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def _reduce(proto: onnx.ModelProto, op: str, name: str, axes: list[int], output: str) -> None:
    """Add a reduction over some axes as an output of the model."""
    import onnx
    from onnx import helper

    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    node = helper.make_node(op, [name], [output], keepdims=0)
    if opset >= 18:  # since then the axes are an input
        proto.graph.initializer.append(helper.make_tensor(f"{output}/axes", onnx.TensorProto.INT64, [len(axes)], axes))
        node.input.append(f"{output}/axes")
    else:
        node.attribute.append(helper.make_attribute("axes", axes))
    proto.graph.node.append(node)
    proto.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))


def _session(proto: onnx.ModelProto, folder: Path, threads: int) -> InferenceSession:
    import onnxruntime as ort

    from compressor.onnx_file import save_draft

    path = folder / "calibration.onnx"
    save_draft(proto, path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _runs(
    session: InferenceSession, wanted: list[str], inputs: Arrays, size: int
) -> Iterator[tuple[dict[str, NDArray[np.generic]], list[NDArray[np.generic]]]]:
    """What goes in and the wanted outputs, call by call, of ``size`` examples each if the batch axis is free."""
    feeds = [value.name for value in session.get_inputs()]
    for batch in _batches(inputs, session.get_inputs()[0].shape, size):
        feed = dict(zip(feeds, batch, strict=True))
        yield feed, session.run(wanted, feed)


def _extremes(
    proto: onnx.ModelProto, names: list[str], examples: Examples, folder: Path, threads: int
) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each activation."""
    wanted = [f"{name}/{end}" for name in names for end in ("min", "max")]
    low = np.full(len(names), np.inf)
    high = np.full(len(names), -np.inf)
    for _, batch in _runs(_session(_with_extremes(proto, names), folder, threads), wanted, examples.inputs, BATCH):
        found = np.array(batch, dtype=np.float64)
        # np.minimum and np.maximum keep NaN, so that it is found below.
        low, high = np.minimum(low, found[0::2]), np.maximum(high, found[1::2])
    empty = (low == np.inf) & (high == -np.inf)  # of no elements
    low[empty] = high[empty] = 0
    # Attention masks tokens by -inf, which every float type holds and softmax turns to 0: no range has to reach there.
    masked = (low == -np.inf) & np.isfinite(high)
    low[masked] = np.minimum(high[masked], 0)
    broken = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)))
    if broken.size:
        raise MethodError(
            "the activation is NaN or infinite on the calibration data",
            where=names[broken[0]],
            mend="check the model's weights and the data",
        )
    return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def _values(
    proto: onnx.ModelProto, names: list[str], examples: Examples, folder: Path, threads: int
) -> Iterator[dict[str, NDArray[np.generic]]]:
    """The activations themselves, a few examples at a time: at most about :data:`VALUES_BYTES` are held."""
    import onnx
    from onnx import helper

    inputs = {value.name for value in proto.graph.input}
    known = {value.name for value in proto.graph.output}
    wanted = [name for name in names if name not in inputs]
    larger = _copy(proto)
    larger.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in wanted if name not in known
    )
    session = _session(larger, folder, threads)
    _, first = next(_runs(session, wanted, tuple(x[:1] for x in examples.inputs), 1))
    size = VALUES_BYTES // max(1, sum(array.nbytes for array in first))
    for feed, found in _runs(session, wanted, examples.inputs, min(max(size, 1), BATCH)):
        yield {**{name: feed[name] for name in names if name in feed}, **dict(zip(wanted, found, strict=True))}


def _span(array: NDArray[np.generic]) -> tuple[float, float]:
    """Smallest and largest element; NaN if there is one."""
    if array.size == 0:
        return 0.0, 0.0
    return float(array.min()), float(array.max())


def _batches(inputs: Arrays, shape: list[int | str | None], free: int) -> Iterator[Arrays]:
    """Cut the examples into calls; a fixed batch axis gets its last call filled up with the last example."""
    fixed = shape[0] if shape and isinstance(shape[0], int) else None
    size = fixed or free
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

    larger = _copy(proto)
    for name in names:
        for end, op in (("min", "ReduceMin"), ("max", "ReduceMax")):
            output = f"{name}/{end}"
            larger.graph.node.append(helper.make_node(op, [name], [output], name=output, keepdims=0))
            larger.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, []))
    return larger

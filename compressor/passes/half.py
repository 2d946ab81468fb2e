"""fp16: weights and activations in 16 bits, which halves the file; whether it saves time is the runtime's to tell.

ONNX Runtime's CPU provider has hardly any kernel that computes in float16 (1.31): it widens the weights when the model
is loaded and computes in float32. Such a file is for a small download, or for an accelerator.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.errors import MethodError
from compressor.onnx_file import load_outline, save_draft, save_onnx, weight_bytes
from compressor.onnx_wire import array_of
from compressor.passes.base import Context
from compressor.passes.calibration import activation_ranges, check_examples
from compressor.passes.qdq import clean, explained, quiet
from compressor.passes.rewrites import prepare, sort_nodes
from compressor.results import Step
from compressor.rules import Ruled, touched

if TYPE_CHECKING:
    import onnx

LARGEST, SMALLEST = 65504.0, 2.0**-24
"""The largest and the smallest positive float16."""

WHOLE_BYTES = 2**26
"""float16 models with more weights than this are tried out without what would lay out all of them twice."""

CRASHING = ("Gelu",)
"""ONNX Runtime 1.31 optimises some graphs with a float16 Gelu until the process dies of a segmentation fault."""


@dataclass(frozen=True)
class Fp16(Ruled):
    """Weights and activations in float16; inputs and outputs stay float32.

    Operators that ONNX Runtime's converter knows to have no float16 form stay float32, and so do those around an
    activation that would overflow on the calibration data.

    Attributes:
        rules: Which layers become float16, as :mod:`compressor.rules` has it.
    """

    name: ClassVar[str] = "fp16"
    rules: tuple[str, ...] = ()

    def apply(self, source: Path, target: Path, context: Context) -> Step:
        """Write the converted model; see :class:`~compressor.passes.base.GraphPass`.

        Raises:
            MethodError: The model is quantized or in float16 already, has no float32 weights, or one of them does not
                fit into float16.
            RecipeError: A rule matches nothing.
        """
        working = tempfile.TemporaryDirectory(prefix=".fp16.", dir=target.parent)
        with working as name, quiet(), explained("ONNX Runtime's float16 converter", source):
            folder = Path(name)
            notes = self._write(source, folder, context)
            _check_loads(folder / "half.onnx", source)
            save_onnx(load_outline(folder / "half.onnx"), target)
        settings: dict[str, str | int | float | bool | None] = {"inputs_outputs": "float32"}
        return Step(self.name, {**settings, "rules": "; ".join(self.rules) or None}, tuple(notes))

    def _write(self, source: Path, folder: Path, context: Context) -> list[str]:
        """Write ``half.onnx`` and say what was done."""
        from onnxruntime.transformers.float16 import convert_float_to_float16

        proto = prepare(source, folder)
        unfit = _check_weights(proto, source)
        layers = weighted(proto)
        left = [layer for layer in layers if layer not in touched(layers, self.parsed)]
        if len(left) == len(layers):
            raise MethodError("the rules leave no layer to convert", where=self.name, mend="exclude fewer layers")
        nodes = [node.name for node in proto.graph.node]
        examples = context.task.calibration()
        large = unfit
        if examples.inputs and len(examples):
            check_examples(examples, proto)
            ranges = activation_ranges(proto, nodes, examples, folder, context.threads)
            large = unfit | {key for key, (low, high) in ranges.items() if max(-low, high) > LARGEST}
        wide = [node.name for node in proto.graph.node if large & {*node.input, *node.output}]
        blocked = sorted({node.op_type for node in proto.graph.node} & blocked_ops())
        weights = _set_aside(proto)
        proto = convert_float_to_float16(
            proto,
            keep_io_types=True,
            disable_shape_infer=True,
            op_block_list=sorted(blocked_ops()),
            node_block_list=[*wide, *left],
        )
        _put_back(proto, weights)
        _join_floats(proto.graph)
        sort_nodes(proto.graph)  # the converter puts its casts at the end
        clean(proto)
        save_draft(proto, folder / "half.onnx")
        notes = ["float16 weights and activations; inputs and outputs stay float32."]
        if blocked:
            notes.append(f"Left in fp32, for lack of a float16 form: {', '.join(blocked)}.")
        if left:
            notes.append(f"Left in fp32 by the rules: {', '.join(left)}.")
        if wide:
            notes.append(f"Left in fp32, as a constant or an activation there exceeds {LARGEST:g}: {', '.join(wide)}.")
        return notes


def blocked_ops() -> frozenset[str]:
    """Operators that stay float32."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

    return frozenset({*DEFAULT_OP_BLOCK_LIST, *CRASHING})


def weighted(proto: onnx.ModelProto) -> dict[str, str]:
    """Name and operator of each node with float32 weights of two axes or more."""
    weights = {
        tensor.name for tensor in proto.graph.initializer if tensor.data_type == tensor.FLOAT and len(tensor.dims) > 1
    }
    return {node.name: node.op_type for node in proto.graph.node if weights & set(node.input)}


def _set_aside(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Put empty weights in the place of those in files, which the converter would have to have in memory at once."""
    import onnx

    weights = {}
    for tensor in proto.graph.initializer:
        if tensor.data_location == tensor.EXTERNAL:
            weights[tensor.name] = onnx.TensorProto()
            weights[tensor.name].CopyFrom(tensor)
            tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0]))
    return weights


def _put_back(proto: onnx.ModelProto, weights: dict[str, onnx.TensorProto]) -> None:
    """Put the weights back, in the type that the converter gave to the empty ones."""
    from onnx import numpy_helper

    for tensor in proto.graph.initializer:
        if tensor.name not in weights:
            continue
        whole = weights.pop(tensor.name)
        if tensor.data_type == tensor.FLOAT16 and whole.data_type == whole.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(_halved(array_of(whole)), tensor.name))
        else:
            tensor.CopyFrom(whole)


def _halved(array: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round to float16; what would become 0 becomes the smallest float16, as ONNX Runtime's converter has it."""
    half = array.astype(np.float16)
    lost = (half == 0) & (array != 0)
    half[lost] = np.copysign(SMALLEST, array[lost])
    return half


def _join_floats(graph: onnx.GraphProto) -> None:
    """Let neighbours that stay float32 hand on float32: the converter goes through float16 between any two."""
    from onnx import TensorProto

    casts = {
        node.output[0]: (node.input[0], next(attribute.i for attribute in node.attribute if attribute.name == "to"))
        for node in graph.node
        if node.op_type == "Cast"
    }
    whole = {}
    for name, (half, to) in casts.items():
        if to == TensorProto.FLOAT and half in casts and casts[half][1] == TensorProto.FLOAT16:
            whole[name] = casts[half][0]
    for node in graph.node:
        if node.op_type == "Cast" and node.output[0] in whole:  # the model's output may be this very one
            node.op_type = "Identity"
            node.input[0] = whole[node.output[0]]
            del node.attribute[:]
        node.input[:] = [whole.get(name, name) for name in node.input]


def _check_loads(path: Path, source: Path) -> None:
    """Load the file in a process of its own, as a crash in ONNX Runtime would take this one along."""
    code = (
        "import sys, onnxruntime as ort; ort.set_default_logger_severity(4); options = ort.SessionOptions();"
        "options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, sys.argv[2]);"
        "ort.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider'])"
    )
    # What comes on top of the extended optimisations lays out convolutions' weights anew, beside the old ones.
    level = "ORT_ENABLE_ALL" if weight_bytes(load_outline(path)) <= WHOLE_BYTES else "ORT_ENABLE_EXTENDED"
    found = subprocess.run([sys.executable, "-c", code, str(path), level], capture_output=True, text=True, check=False)
    if found.returncode:
        lines = found.stderr.strip().splitlines()
        reason = lines[-1] if lines and found.returncode > 0 else f"its process died of signal {-found.returncode}"
        raise MethodError(
            f"ONNX Runtime cannot load it in float16: {reason}", where=source, mend="try int8, or keep float32"
        )


def _check_weights(proto: onnx.ModelProto, source: Path) -> set[str]:
    """Refuse weights that are float16 already, are not there, or would become infinite; gives constants that would."""
    kinds = {tensor.data_type for tensor in proto.graph.initializer}
    if proto.graph.initializer and kinds & {10, 16}:  # FLOAT16, BFLOAT16
        raise MethodError("the model has 16-bit weights already", where=source, mend="give the original model")
    floats = [tensor for tensor in proto.graph.initializer if tensor.data_type == tensor.FLOAT]
    if not any(len(tensor.dims) > 1 for tensor in floats):
        raise MethodError("there is nothing to convert: no float32 weights", where="fp16")
    unfit = set()
    for tensor in floats:
        largest = float(np.abs(array_of(tensor)).max(initial=0.0))
        if largest > LARGEST and len(tensor.dims) < 2:  # such as what is added where attention is masked
            unfit.add(tensor.name)
        elif not largest <= LARGEST:
            raise MethodError(
                f"holds {largest:g}, and float16 ends at {LARGEST:g}",
                where=f"weight '{tensor.name}'",
                mend="this model cannot be fp16; try int8",
            )
    return unfit

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

from compressor.errors import MethodError
from compressor.onnx_file import save_onnx
from compressor.passes.base import Context
from compressor.passes.calibration import activation_ranges, check_examples
from compressor.passes.qdq import clean, quiet
from compressor.passes.rewrites import prepare, sort_nodes
from compressor.results import Step

if TYPE_CHECKING:
    import onnx

LARGEST = 65504.0
"""The largest float16."""

CRASHING = ("Gelu",)
"""ONNX Runtime 1.31 optimises some graphs with a float16 Gelu until the process dies of a segmentation fault."""


@dataclass(frozen=True)
class Fp16:
    """Weights and activations in float16; inputs and outputs stay float32.

    Operators that ONNX Runtime's converter knows to have no float16 form stay float32, and so do those around an
    activation that would overflow on the calibration data.
    """

    name: ClassVar[str] = "fp16"

    def apply(self, source: Path, target: Path, context: Context) -> Step:
        """Write the converted model; see :class:`~compressor.passes.base.GraphPass`.

        Raises:
            MethodError: The model is quantized or in float16 already, has no float32 weights, or one of them does not
                fit into float16.
        """
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

        with tempfile.TemporaryDirectory(prefix=".fp16.", dir=target.parent) as name, quiet():
            folder = Path(name)
            try:
                proto = prepare(source, folder)
                _check_weights(proto, source)
                nodes = [node.name for node in proto.graph.node]
                examples = context.task.calibration()
                wide: list[str] = []
                if examples.inputs and len(examples):
                    check_examples(examples, proto)
                    ranges = activation_ranges(proto, nodes, examples, folder, context.threads)
                    large = {key for key, (low, high) in ranges.items() if max(-low, high) > LARGEST}
                    wide = [node.name for node in proto.graph.node if large & {*node.input, *node.output}]
                blocked = sorted({node.op_type for node in proto.graph.node} & {*DEFAULT_OP_BLOCK_LIST, *CRASHING})
                proto = convert_float_to_float16(
                    proto,
                    keep_io_types=True,
                    disable_shape_infer=True,
                    op_block_list=[*DEFAULT_OP_BLOCK_LIST, *CRASHING],
                    node_block_list=wide,
                )
                _join_floats(proto.graph)
                sort_nodes(proto.graph)  # the converter puts its casts at the end
                clean(proto)
                save_onnx(proto, folder / "half.onnx")
                _check_loads(folder / "half.onnx", source)
            except MethodError:
                raise
            except Exception as error:  # asserts, ValueErrors and ONNX Runtime's own, which share no base
                reason = str(error).strip() or type(error).__name__
                raise MethodError(f"ONNX Runtime's float16 converter gave up: {reason}", where=source) from error
        save_onnx(proto, target)
        notes = ["float16 weights and activations; inputs and outputs stay float32."]
        if blocked:
            notes.append(f"Left in fp32, for lack of a float16 form: {', '.join(blocked)}.")
        if wide:
            notes.append(f"Left in fp32, as an activation there exceeds {LARGEST:g} in calibration: {', '.join(wide)}.")
        return Step(self.name, {"inputs_outputs": "float32"}, tuple(notes))


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
        node.input[:] = [whole.get(name, name) for name in node.input]


def _check_loads(path: Path, source: Path) -> None:
    """Load the file in a process of its own, as a crash in ONNX Runtime would take this one along."""
    code = (
        "import sys, onnxruntime as ort; ort.set_default_logger_severity(4);"
        "ort.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
    )
    found = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    if found.returncode:
        lines = found.stderr.strip().splitlines()
        reason = lines[-1] if lines and found.returncode > 0 else f"its process died of signal {-found.returncode}"
        raise MethodError(
            f"ONNX Runtime cannot load it in float16: {reason}", where=source, mend="try int8, or keep float32"
        )


def _check_weights(proto: onnx.ModelProto, source: Path) -> None:
    """Refuse weights that are float16 already, are not there, or would become infinite."""
    import numpy as np
    from onnx import numpy_helper

    kinds = {tensor.data_type for tensor in proto.graph.initializer}
    if proto.graph.initializer and kinds & {10, 16}:  # FLOAT16, BFLOAT16
        raise MethodError("the model has 16-bit weights already", where=source, mend="give the original model")
    floats = [tensor for tensor in proto.graph.initializer if tensor.data_type == tensor.FLOAT]
    if not any(len(tensor.dims) > 1 for tensor in floats):
        raise MethodError("there is nothing to convert: no float32 weights", where="fp16")
    for tensor in floats:
        array = numpy_helper.to_array(tensor)
        largest = float(np.abs(array).max(initial=0.0))
        if not largest <= LARGEST:
            raise MethodError(
                f"holds {largest:g}, and float16 ends at {LARGEST:g}",
                where=f"weight '{tensor.name}'",
                mend="this model cannot be fp16; try int8",
            )

"""PyTorch, eager or compiled: runs exported programs, Hugging Face folders, and what the methods for it write.

Eager runs operator by operator, as the user's own model would. ``torch-compile`` gives the same module to
``torch.compile``, whose code generator (inductor) needs a C++ compiler on a CPU; it compiles at the first call of each
shape, which a worker counts as time to load.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compressor.errors import CompressorError, RuntimeUnavailableError
from compressor.model.base import Arrays
from compressor.model.quiet import quiet_export
from compressor.model.signature import one_line
from compressor.results import KernelCounts, RuntimeInfo, TensorSpec
from compressor.runtimes.batching import predict
from compressor.runtimes.device import cuda_index, no_gpu
from compressor.torchao_file import About, load, read_about

RECOMPILE_LIMIT = 64
"""Times that one piece of code is compiled: other sessions of this process have the same, and each shape is another."""


def require(device: str, compiled: bool = False) -> None:
    """See that torch can run on a device, and compile for it.

    Raises:
        RuntimeUnavailableError: There is no such GPU or no C++ compiler, or torch.compile is switched off.
    """
    name = "torch-compile" if compiled else "torch"
    index = cuda_index(device)
    if compiled:
        _require_switched_on()
    if index is None:
        if compiled:
            _require_compiler()
        return
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        raise no_gpu(name, "no NVIDIA GPU is here" if built else "the installed torch is a build without CUDA")
    if index >= torch.cuda.device_count():
        raise no_gpu(name, f"there are {torch.cuda.device_count()} GPUs, counted from 0, and no cuda:{index}")


def _require_compiler() -> None:
    with quiet_export():
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise RuntimeUnavailableError(
            "torch.compile finds no C++ compiler",
            where="torch-compile",
            mend="install g++ or clang, or name one in the environment variable CXX",
        ) from error


@functools.cache  # asked again and again, torch would reach its limit of compilations of this one function
def _require_switched_on() -> None:
    """See that torch.compile compiles: switched off it runs every module eagerly, and says nothing."""
    compiled = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Any:
        compiled.append(graph)
        return graph.forward

    with quiet_export():
        torch.compile(lambda x: x + 1, backend=backend)(torch.zeros(1))
    if not compiled:
        raise RuntimeUnavailableError(
            "torch.compile is switched off",
            where="torch-compile",
            mend="unset TORCH_COMPILE_DISABLE and TORCHDYNAMO_DISABLE, or use torch",
        )


class TorchSession:
    """A model that PyTorch runs.

    Args:
        module: In eval mode, on its device.
        specs: Its inputs and its outputs.
        threads: CPU threads of the process from now on; PyTorch knows no threads per model.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        compiled: Whether ``torch.compile`` makes code of it.
        about: What a method for PyTorch made of it; ``None`` where nothing.

    Attributes:
        info: The runtime, its version and the options in force.
        inputs: The model's inputs.
        outputs: Its outputs.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
        threads: int,
        device: str,
        compiled: bool,
        about: About | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self._module: Any = module
        self._about = about
        self._compiled = compiled
        # Shapes that there is code for; of an eager module, for any.
        self._ready: set[tuple[torch.Size, ...]] = set()
        self.inputs, self.outputs = specs
        index = cuda_index(device)
        self._device = "cpu" if index is None else f"cuda:{index}"
        if compiled:
            with quiet_export():
                from torch._inductor import config

                # Else a pool of processes stays behind and is there while others are measured.
                config.compile_threads = 1
                self._module = torch.compile(module)
        mode = "compiled by inductor" if compiled else "eager"
        name = "torch-compile" if compiled else "torch"
        self.info = RuntimeInfo(name, torch.__version__, self._device, {"mode": mode, "threads": str(threads)})

    def run(self, inputs: Arrays) -> tuple[NDArray[np.generic], ...]:
        """Compute all outputs of one batch, ``(batch, …)`` each, in the order of ``outputs``.

        Raises:
            RuntimeUnavailableError: ``torch.compile`` cannot compile the model.
        """
        tensors = [torch.from_numpy(np.require(x, requirements=("C", "W"))).to(self._device) for x in inputs]
        if self._compiled and (shapes := tuple(x.shape for x in tensors)) not in self._ready:
            self._compile_for(tensors)
            self._ready.add(shapes)
        with torch.inference_mode():
            found = self._module(*tensors)
        # Copying to the CPU waits for the GPU's queue up to the outputs; the rest of the queue is waited for too.
        arrays = tuple(_array(x) for x in torch.utils._pytree.tree_leaves(found) if isinstance(x, torch.Tensor))
        if self._device != "cpu":
            torch.cuda.synchronize(self._device)
        return arrays

    def _compile_for(self, tensors: list[torch.Tensor]) -> None:
        from torch._dynamo import config

        # Either would run the module eagerly from here on, and say nothing.
        loud = config.patch(suppress_errors=False, fail_on_recompile_limit_hit=True, recompile_limit=RECOMPILE_LIMIT)
        try:
            with quiet_export(), torch.inference_mode(), loud:
                self._module(*tensors)
        except Exception as error:  # InductorError, dynamo's own, and what the model raises
            raise RuntimeUnavailableError(
                f"torch.compile cannot compile it: {one_line(error)}", where="torch-compile", mend="use torch for it"
            ) from error

    def predict(self, inputs: Arrays) -> NDArray[np.generic]:
        """Compute the first output of one batch, ``(batch, …)``; see :func:`~compressor.runtimes.batching.predict`."""
        return predict(self.run, self.inputs, inputs, self.outputs)

    def kernels(self) -> KernelCounts | None:
        """What a method for PyTorch changed; ``None`` for others, as PyTorch does not tell its kernels."""
        about = self._about
        if about is None:
            return None
        compute = len(about.layers) + len(about.left)
        return KernelCounts(compute, len(about.layers), about.precision, about.by_op, about.left)


def _array(tensor: torch.Tensor) -> NDArray[np.generic]:
    # NumPy has no bfloat16.
    array: NDArray[np.generic] = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).cpu().numpy()
    return array


def _specs(nodes: Iterable[torch.fx.Node]) -> tuple[TensorSpec, ...]:
    """Read name, type and shape off graph nodes; a symbolic size is free."""
    specs = []
    for node in nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            shape = tuple(size if isinstance(size, int) else None for size in value.shape)
            specs.append(TensorSpec(node.name, str(value.dtype).removeprefix("torch."), shape))
    return tuple(specs)


def _open_program(path: Path, threads: int, device: str, compiled: bool) -> TorchSession:
    # Archives reach this point only after the model loader has screened them or export has written them.
    try:
        program = torch.export.load(path)
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        # Guards are Python code, which the compiler cannot see through.
        module = program.module(check_guards=not compiled)
    except Exception as error:  # torch raises RuntimeError, KeyError, zipfile's and pickle's own, …
        raise RuntimeUnavailableError(f"torch cannot load it: {error}", where=path) from error
    placeholders = {node.name: node for node in program.graph.nodes}
    signature = program.graph_signature
    inputs = _specs(placeholders[name] for name in signature.user_inputs if name in placeholders)
    outputs = _specs(placeholders[name] for name in signature.user_outputs if name in placeholders)
    return TorchSession(module, (inputs, outputs), threads, device, compiled)


def _open_folder(path: Path, threads: int, device: str, compiled: bool) -> TorchSession:
    """Open the Hugging Face folder whose weights are named."""
    from compressor.model.hf_load import load_folder
    from compressor.model.hf_signature import kept_signature

    known = kept_signature(path.parent)
    if known is None:
        raise RuntimeUnavailableError(
            "torch opens such a file only in a folder that this program wrote",
            where=path,
            mend="give the folder to 'compress bench' or 'compress', which load it",
        )
    try:
        # As with programs: what comes here was screened by the model loader, or written by export.
        module = load_folder(path.parent, trust_remote_code=True).module.to(device)
    except CompressorError as error:
        raise RuntimeUnavailableError(f"torch cannot load it: {error}", where=path) from error
    return TorchSession(module, (known.inputs, known.outputs), threads, device, compiled)


def open_session(path: Path, threads: int, device: str = "cpu", compiled: bool = False) -> TorchSession:
    """Load an exported program, what a method for PyTorch wrote, or the Hugging Face folder whose weights are named.

    Args:
        path: A ``.pt2`` or ``.safetensors`` file that export or a method wrote, or that the model loader has screened.
        threads: CPU threads of the process from now on.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        compiled: Whether ``torch.compile`` makes code of it.

    Returns:
        The loaded model.

    Raises:
        RuntimeUnavailableError: PyTorch cannot load it.
    """
    if path.suffix.lower() != ".safetensors":
        return _open_program(path, threads, device, compiled)
    try:
        if read_about(path) is None:
            return _open_folder(path, threads, device, compiled)
        module, about = load(path, device)
    except RuntimeUnavailableError:
        raise
    except CompressorError as error:
        raise RuntimeUnavailableError(f"torch cannot load it: {error}", where=path) from error
    return TorchSession(module, (about.inputs, about.outputs), threads, device, compiled, about)

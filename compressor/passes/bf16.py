"""bf16: weights and activations in bfloat16, for PyTorch to run; inputs and outputs stay float32.

ONNX Runtime's CPU provider has no bfloat16 kernels (1.31), so such a model does not become ONNX. PyTorch has them on
every device, but only some CPUs multiply in bfloat16; on others it widens each number first, which costs more than
float32.

It is ``module.to(torch.bfloat16)``, made to hold for a traced graph as well, in which types are written down: what
multiplies gets its inputs in bfloat16, and so does what PyTorch refuses to compute in two types at once; an operator
without a bfloat16 kernel computes in float32. Normalisations and softmax round what they return, not what they add up.
Constants, and buffers that a checkpoint does not hold (tables of positions), keep their type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compressor import torchao_file
from compressor.errors import MethodError
from compressor.model.filling import build_folder
from compressor.model.signature import one_line
from compressor.passes.base import Context
from compressor.passes.graph import erase_checks
from compressor.passes.propagation import describe, operator_name
from compressor.passes.rewriting import set_weight
from compressor.passes.torch_files import BY_RULE, COMPUTE, COMPUTE_LAYERS, TorchFile
from compressor.results import Step
from compressor.rules import touched
from compressor.torchao_file import About
from compressor.tracing import outputs_of, trace

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule, Node

    from compressor.model.base import TorchModel

CPU_FEATURES = frozenset({"amx_bf16", "avx512_bf16", "bf16"})
"""Instruction sets that multiply in bfloat16, as :class:`~compressor.results.Environment` names them."""

CAPABILITY = (8, 0)
"""Compute capability of the first NVIDIA GPUs that do."""

NO_KERNEL = "PyTorch has no bfloat16 kernel for it"


@dataclass(frozen=True)
class Bf16(TorchFile):
    """Weights and activations in bfloat16; inputs and outputs stay float32."""

    name: ClassVar[str] = "bf16"
    precision: ClassVar[str] = torchao_file.BF16
    counted: ClassVar[str] = "compute ops"

    def require(self, device: str) -> None:
        """Nothing: PyTorch has bfloat16 kernels on every device."""

    def apply(self, model: TorchModel, target: Path, context: Context) -> Step:
        """Write the model in bfloat16; see :class:`~compressor.passes.base.FilePass`.

        Raises:
            MethodError: Nothing in it computes, or an operator runs in no type.
            ExportError: The model cannot be traced.
            RecipeError: A rule matches nothing.
        """
        step = super().apply(model, target, context)
        lacking = _lacking(context)
        notes = (f"{lacking}: PyTorch emulates them; expect it to be slower.",) if lacking else ()
        return replace(step, settings={**step.settings, "emulated": bool(lacking)}, notes=(*notes, *step.notes))

    def layers(self, model: TorchModel) -> dict[str, str]:
        """Name and kind of each layer that the rules can choose.

        Args:
            model: The model; unchanged.
        """
        from compressor.model.huggingface import HuggingFaceModule

        if isinstance(model.module, HuggingFaceModule):
            return _layers_of_modules(model.module.hf)
        return _layers_of_graph(trace(model).module(check_guards=False))

    def _excluded(self, layers: Mapping[str, str]) -> frozenset[str]:
        return frozenset(layers) - touched(layers, self.parsed)

    def _program(self, model: TorchModel, target: Path, device: str) -> About:
        program = trace(model)
        excluded = self._excluded(_layers_of_graph(program.module(check_guards=False)))
        kept: frozenset[str] = excluded
        while True:
            module, lacking = _lowered(program, model, kept)
            if lacking <= kept:
                break
            kept |= lacking  # their weights stay float32 too
        program = trace(replace(model, module=module))
        erase_checks(program.graph_module)
        low: list[str] = []
        left: dict[str, str] = {}
        by_op: Counter[str] = Counter()
        for node in _calls(program.module(check_guards=False)):
            by_op[operator_name(node)] += 1
            if operator_name(node) in COMPUTE:
                name = _unique(_layer(node) or node.name, {*low, *left})
                if _types(node) == {"bfloat16"}:
                    low.append(name)
                else:
                    left[name] = BY_RULE if _layer(node) in excluded else NO_KERNEL
        self._require_some(low, left)
        about = self._about(model, low, left, by_op, outputs_of(program))
        torchao_file.save_program(dict(program.state_dict), program, about, target)
        return about

    def _huggingface(self, model: TorchModel, module: Any, target: Path, device: str) -> About:
        import torch

        from compressor.model.hf_load import save_folder

        excluded = self._excluded(_layers_of_modules(module.hf))
        whole = {
            id(parameter) for name in excluded for parameter in module.hf.get_submodule(name).parameters(recurse=False)
        }
        made: dict[int, torch.Tensor] = {}
        for tensor in module.hf.state_dict(keep_vars=True).values():
            if isinstance(tensor, torch.Tensor) and id(tensor) not in made:
                halved = tensor.dtype is torch.float32 and id(tensor) not in whole
                made[id(tensor)] = tensor.detach().to(torch.bfloat16) if halved else tensor.detach()
        state = {
            name: made[id(tensor)]
            for name, tensor in module.hf.state_dict(keep_vars=True).items()
            if isinstance(tensor, torch.Tensor)
        }
        _, outputs = save_folder(model, target.parent)
        low, left, by_op = _watched(build_folder(target.parent, state, bfloat16=True), model.example_inputs)
        left = {name: BY_RULE if name.rpartition("/")[0] in excluded else why for name, why in left.items()}
        self._require_some(low, left)
        about = self._about(model, low, left, by_op, outputs)
        torchao_file.save_huggingface(state, target.parent, about)
        return about


def _lacking(context: Context) -> str:
    """What has no bfloat16 instructions; empty if the device has them."""
    if context.device == "cpu":
        if not context.cpu_features:
            return "It is not known whether this CPU has bfloat16 instructions. If not"
        return "" if CPU_FEATURES & set(context.cpu_features) else "This CPU has no bfloat16 instructions"
    import torch

    old = torch.cuda.get_device_capability(context.device) < CAPABILITY
    return f"{torch.cuda.get_device_name(context.device)} has no bfloat16 instructions" if old else ""


# --- traced graphs -------------------------------------------------------------------------------------------------


def _calls(module: GraphModule) -> Iterator[Node]:
    """The calls of operators in a graph, in branches and loop bodies too."""
    import torch

    for each in module.modules():
        if isinstance(each, torch.fx.GraphModule):
            yield from (node for node in each.graph.nodes if node.op == "call_function")


def _layer(node: Node) -> str:
    """The layer whose weight a node reads; empty if it reads none."""
    for source in node.all_input_nodes:
        if source.op == "get_attr":
            return str(source.target).rpartition(".")[0] or str(source.target)
    return ""


def _layers_of_graph(module: GraphModule) -> dict[str, str]:
    nodes = [node for node in module.graph.nodes if node.op == "call_function" and operator_name(node) in COMPUTE]
    return {name: operator_name(node) for node in nodes if (name := _layer(node))}


def _types(node: Node) -> set[str]:
    """The floating-point types of what a node reads."""
    import torch

    values = [source.meta.get("val") for source in node.all_input_nodes]
    return {
        str(value.dtype).removeprefix("torch.")
        for value in values
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 2
    while candidate in taken:
        candidate, count = f"{name} ({count})", count + 1
    return candidate


def _lowered(
    program: torch.export.ExportedProgram, model: TorchModel, kept: frozenset[str]
) -> tuple[GraphModule, frozenset[str]]:
    """The graph with its weights in bfloat16, and casts wherever the example shows that one is needed.

    Args:
        program: The traced model; unchanged.
        model: Its example is run.
        kept: Layers that stay float32.

    Returns:
        The graph, and the layers that turned out to have no bfloat16 kernel.

    Raises:
        MethodError: An operator runs in no type.
    """
    import torch

    module = program.module(check_guards=False)
    erase_checks(module)
    whole = {
        str(source.target)
        for node in module.graph.nodes
        if node.op == "call_function" and operator_name(node) in COMPUTE and _layer(node) in kept
        for source in node.all_input_nodes
        if source.op == "get_attr"
    }
    made: dict[int, torch.Tensor] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor) and tensor.dtype is torch.float32 and name not in whole:
            if id(tensor) not in made:
                made[id(tensor)] = tensor.detach().to(torch.bfloat16)
            set_weight(module, name, made[id(tensor)])
    lacking = _insert_casts(module, model, kept)
    module.recompile()
    return module, lacking


def _insert_casts(module: GraphModule, model: TorchModel, kept: frozenset[str]) -> frozenset[str]:
    import torch
    from torch import Tensor
    from torch.fx import Interpreter

    lacking: set[str] = set()
    made: dict[tuple[Node, torch.dtype], Node] = {}

    def cast(node: Node, source: Node, to: torch.dtype) -> None:
        if (source, to) not in made:
            with module.graph.inserting_before(node):
                made[source, to] = module.graph.call_function(torch.ops.aten.to.dtype, (source, to))
        node.replace_input_with(source, made[source, to])

    class Caster(Interpreter):
        """Runs the graph in the types that it will have, and casts where it has to."""

        def run_node(self, n: Node) -> Any:
            if n.op != "call_function":
                found = super().run_node(n)
                for source in n.all_input_nodes if n.op == "output" else ():
                    before, now = source.meta.get("val"), self.env[source]
                    if isinstance(before, Tensor) and before.dtype != now.dtype:
                        cast(n, source, before.dtype)
                return found
            tries: tuple[torch.dtype | None, ...] = (None, torch.bfloat16, torch.float32)
            layer = _layer(n)  # now: its weights are behind casts later
            if operator_name(n) in COMPUTE:
                tries = (torch.float32,) if layer in kept else (torch.bfloat16, torch.float32)
            for wanted in tries:
                try:
                    found = self._run_in(n, wanted)
                except Exception as error:  # RuntimeError, NotImplementedError: by the kernel
                    reason = error
                    continue
                if wanted is torch.float32 and operator_name(n) in COMPUTE:
                    lacking.add(layer)
                return found
            raise MethodError(
                f"{describe(n)} runs neither in bfloat16 nor in float32: {one_line(reason)}", where=Bf16.name
            ) from reason

        def _run_in(self, n: Node, wanted: torch.dtype | None) -> Any:
            if wanted is None:
                return super().run_node(n)
            before = {source: self.env[source] for source in n.all_input_nodes}
            changed = {
                source: value.to(wanted)
                for source, value in before.items()
                if isinstance(value, Tensor)
                and value.dtype in (torch.float32, torch.bfloat16)
                and value.dtype != wanted
            }
            self.env.update(changed)
            try:
                found = super().run_node(n)
            finally:
                self.env.update(before)
            for source in changed:
                cast(n, source, wanted)
            return found

    with torch.no_grad():
        caster = Caster(module, garbage_collect_values=False)
        caster.extra_traceback = False  # it would write into the error's message
        caster.run(*model.example_inputs)
    return frozenset(lacking - {""})


# --- modules of Hugging Face ---------------------------------------------------------------------------------------


def _layers_of_modules(hf: Any) -> dict[str, str]:
    return {name: type(layer).__name__ for name, layer in hf.named_modules() if type(layer).__name__ in COMPUTE_LAYERS}


def _watched(module: Any, example: tuple[Any, ...]) -> tuple[list[str], dict[str, str], Counter[str]]:
    """Run a model and see which operators get bfloat16.

    Args:
        module: A :class:`~compressor.model.huggingface.HuggingFaceModule` in bfloat16.
        example: Its inputs.

    Returns:
        Names of the operators that multiply in bfloat16; names of the others, and why; all operators that were called.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    inside: list[str] = [""]
    low: list[str] = []
    left: dict[str, str] = {}
    by_op: Counter[str] = Counter()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            op = str(getattr(func, "overloadpacket", func).__name__)
            by_op[op] += 1
            if op in COMPUTE or op.startswith(("_scaled_dot_product", "mkldnn_rnn")):
                kinds = {x.dtype for x in tree_leaves(args) if isinstance(x, torch.Tensor) and x.is_floating_point()}
                name = _unique(f"{inside[-1]}/{op}", {*low, *left})
                if kinds == {torch.bfloat16}:
                    low.append(name)
                else:
                    left[name] = "the model asks for float32 there"
            return func(*args, **(kwargs or {}))

    def leave(*_: Any) -> None:
        inside.pop()

    hooks = []
    for name, layer in module.hf.named_modules():
        hooks.append(layer.register_forward_pre_hook(lambda *_, name=name: inside.append(name)))
        hooks.append(layer.register_forward_hook(leave))
    try:
        with torch.no_grad(), Watch():
            module(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return low, left, by_op

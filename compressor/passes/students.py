"""Students: where the module that learns from the original comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from compressor.errors import CompressorError, MethodError, nearest
from compressor.model.signature import one_line
from compressor.passes.base import Context
from compressor.passes.checkpoint import copy_of
from compressor.passes.hf_rebuild import hugging_face
from compressor.passes.hf_students import evenly
from compressor.task.base import Examples
from compressor.task.user_code import is_reference, load_callable

if TYPE_CHECKING:
    from torch import nn

    from compressor.model.base import TorchModel

KINDS = ("same", "layers", "narrower")

_SAMPLE = 256

_ROUND_TO = 8
"""Narrower layers keep a multiple of this many channels, as with pruning."""


def check_student(student: str, where: str) -> None:
    """Refuse what names no student.

    Raises:
        MethodError: It is neither of :data:`KINDS` nor a reference to a callable.
    """
    if student not in KINDS and not is_reference(student):
        mend = f"{nearest(student, KINDS)}, or package.module:callable or file.py:callable"
        raise MethodError(f"has no student '{student}'", where=where, mend=mend)


@dataclass(frozen=True)
class Wanted:
    """What is asked of a student.

    Attributes:
        student: ``same`` for a copy; ``layers`` for one with fewer of its equal layers; ``narrower`` for one whose
            layers are narrower; ``package.module:callable`` or ``file.py:callable`` for what that returns.
        layers: Share of the equal layers that ``layers`` keeps, below 1, or their number.
        width: Share of the channels of every layer that ``narrower`` keeps.
        fresh: Whether ``narrower`` draws its weights anew.
    """

    student: str
    layers: float
    width: float
    fresh: bool


def make_student(
    wanted: Wanted, model: TorchModel, examples: Examples, context: Context, where: str
) -> tuple[TorchModel, str]:
    """Make the model that is trained.

    Args:
        wanted: What is asked for.
        model: The model of the stage before; it stays as it is.
        examples: What it will be trained on.
        context: For the seed of weights that are drawn.
        where: The method, for messages.

    Returns:
        The student and one sentence on what it is.

    Raises:
        MethodError: The model cannot be made smaller so, or the callable failed or returned no module.
        ExportError: A narrower one is wanted and the model cannot be traced.
    """
    if wanted.student == "same":
        return replace(model, module=copy_of(model.module)), "The student is the model as the stage before left it."
    if wanted.student == "layers":
        if hugging_face(model.module) is not None:
            from compressor.passes.hf_students import fewer_layers

            return fewer_layers(model, wanted.layers, where)
        module, note = _fewer_layers(model.module, wanted.layers, where)
        return replace(model, module=module), note
    if wanted.student == "narrower":
        return _narrower(model, wanted, examples, context, where)
    module = _own(wanted.student, model, context.seed, where)
    return replace(model, module=module), f"The student is {wanted.student}."


def _own(student: str, model: TorchModel, seed: int, where: str) -> nn.Module:
    import torch

    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            built = load_callable(student)()
    except CompressorError:
        raise
    except Exception as error:  # the user's own code: whatever it raises is the message
        raise MethodError(
            f"student '{student}' raised {one_line(error)}",
            where=where,
            mend="name a callable that takes no arguments",
        ) from error
    if not isinstance(built, torch.nn.Module):
        raise MethodError(f"student '{student}' is a {type(built).__name__}, not a torch.nn.Module", where=where)
    known = hugging_face(model.module)
    if known is None or not hasattr(built, "save_pretrained"):
        return built
    return type(known)(built, known.task, known.input_names, known.output_names)


def _narrower(
    model: TorchModel, wanted: Wanted, examples: Examples, context: Context, where: str
) -> tuple[TorchModel, str]:
    """Keep the same share of the channels of every layer: those with the largest weights, or new ones."""
    import torch

    from compressor.passes.batch_norms import adapted
    from compressor.passes.grouping import same_share
    from compressor.passes.hf_prune import channel_graph
    from compressor.passes.importance import importance

    graph = channel_graph(model)
    groups = graph.groups(frozenset(layer.name for layer in graph.layers), _ROUND_TO)
    scores = importance(graph, "magnitude", context)
    removed = same_share(graph, groups, scores, 1 - wanted.width)
    if not removed.any():
        raise MethodError(
            f"width is {wanted.width:g}, with which no layer becomes narrower",
            where=where,
            mend=f"lower it: layers keep a multiple of {_ROUND_TO} channels",
        )
    made = graph.without(removed)
    before, after = graph.parameter_count(graph.none), graph.parameter_count(removed)
    note = f"The student's layers are {wanted.width:g} as wide: parameters {before:,} → {after:,}"
    if not wanted.fresh:
        return made, " ".join((f"{note}; the weights of the channels that stay are kept.", *adapted(made, context)))
    if (known := hugging_face(made.module)) is not None:
        from compressor.passes.hf_rebuild import rebuilt

        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(context.seed)
            new = type(known.hf)(known.hf.config)
        module: nn.Module = rebuilt(known, known.hf.config, new.state_dict(), where)
    else:
        from compressor.passes.fresh import drawn_anew

        rows = np.arange(model.inputs[0].shape[0] or min(len(examples), _SAMPLE)) % len(examples)
        inputs = tuple(torch.from_numpy(np.ascontiguousarray(x[rows])) for x in examples.inputs)
        module = drawn_anew(made, inputs, context.seed)
    return replace(made, module=module), f"{note}; its weights are new."


def _fewer_layers(module: nn.Module, share: float, where: str) -> tuple[nn.Module, str]:
    """Keep evenly spaced layers, the first and the last among them, with their weights.

    Source: Sanh et al. 2019, "DistilBERT", section 3, which takes one layer out of two.
    """
    import torch
    from torch import nn

    if isinstance(module, torch.fx.GraphModule):
        raise MethodError(
            "an exported program has no layers left to leave out",
            where=where,
            mend="give the model as weights with --arch, or name a student of your own",
        )
    made = copy_of(module)
    stacks = [
        (name, part)
        for name, part in made.named_modules()
        if isinstance(part, nn.ModuleList | nn.Sequential) and len(part) > 1 and _all_equal(list(part))
    ]
    if not stacks:
        raise MethodError(
            "the model has no ModuleList or Sequential of equal layers to leave some out of",
            where=where,
            mend="name a student of your own",
        )
    name, stack = max(stacks, key=lambda entry: sum(p.numel() for p in entry[1].parameters()))
    count = len(stack)
    chosen = evenly(share, count, f"'{name}'", where)
    keep = len(chosen)
    parent = made.get_submodule(name.rpartition(".")[0])
    kept = [stack[i] for i in chosen]
    replaced = nn.ModuleList(kept) if isinstance(stack, nn.ModuleList) else nn.Sequential(*kept)
    setattr(parent, name.rpartition(".")[2], replaced.train(stack.training))
    return made, f"The student keeps {keep} of the {count} layers of '{name}': {', '.join(map(str, chosen))}."


def _all_equal(layers: list[nn.Module]) -> bool:
    """Whether layers are of one class with weights of the same names and shapes."""
    kinds = {
        (type(layer), tuple((name, tuple(value.shape)) for name, value in layer.named_parameters())) for layer in layers
    }
    return len(kinds) == 1 and any(True for _ in layers[0].parameters())

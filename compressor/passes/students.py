"""Students: where the module that learns from the original comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.errors import CompressorError, MethodError, nearest
from compressor.model.signature import one_line
from compressor.passes.checkpoint import copy_of
from compressor.task.user_code import is_reference, load_callable

if TYPE_CHECKING:
    import torch
    from torch import nn

KINDS = ("same", "layers")


def check_student(student: str, where: str) -> None:
    """Refuse what names no student.

    Raises:
        MethodError: It is neither of :data:`KINDS` nor a reference to a callable.
    """
    if student in KINDS or is_reference(student):
        return
    mend = "prune the model before distilling it" if student == "narrower" else nearest(student, KINDS)
    raise MethodError(
        f"has no student '{student}'",
        where=where,
        mend=f"{mend}, or package.module:callable or file.py:callable",
    )


def make_student(
    student: str, module: torch.nn.Module, layers: float, seed: int, where: str
) -> tuple[torch.nn.Module, str]:
    """Make the module that is trained.

    Args:
        student: ``same`` for a copy; ``layers`` for a copy with fewer of its equal layers;
            ``package.module:callable`` or ``file.py:callable`` for what that returns.
        module: The module of the stage before; it stays as it is.
        layers: Share of the equal layers that ``layers`` keeps, above 0 to 1.
        seed: Of the weights that a callable draws.
        where: The method, for messages.

    Returns:
        The student and one sentence on what it is.

    Raises:
        MethodError: The module has no equal layers, or the callable failed or returned no module.
    """
    if student == "same":
        return copy_of(module), "The student is the model as the stage before left it."
    if student == "layers":
        return _fewer_layers(module, layers, where)
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
    return built, f"The student is {student}."


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
    keep = max(1, round(share * count))
    if keep == count:
        raise MethodError(f"layers is {share}, which keeps all {count} layers of '{name}'", where=where)
    chosen = [round(i * (count - 1) / (keep - 1)) for i in range(keep)] if keep > 1 else [0]
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

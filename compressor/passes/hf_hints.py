"""Which layers of a Hugging Face student imitate which of the original's, and models that show their attention."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from compressor.errors import MethodError
from compressor.passes.hf_rebuild import hugging_face, rebuilt
from compressor.passes.hf_students import stack_of

if TYPE_CHECKING:
    from torch import Tensor, nn

ALL = "layers"
"""Stands for all layers of a Hugging Face model."""

_WHERE = "distill"


def layer_pairs(student: nn.Module, teacher: nn.Module) -> tuple[str, ...]:
    """Pair every layer of a student with one of its teacher's, ``student=teacher``.

    Each student's layer does the work of as many of the teacher's, and imitates the last of them: the uniform
    strategy of Jiao et al. 2020, "TinyBERT", section 4.

    Args:
        student: A Hugging Face model's module.
        teacher: Likewise.

    Raises:
        MethodError: One of them is no Hugging Face model, or has no list of layers.
    """
    names, counts = [], []
    for module, who in ((student, "student"), (teacher, "original")):
        known = hugging_face(module)
        stack = None if known is None else stack_of(known.hf)
        if known is None or stack is None:
            raise MethodError(
                f"the {who} has no layers of a Hugging Face model that '{ALL}' could stand for",
                where=_WHERE,
                mend="name layers one by one",
            )
        names.append(f"hf.{stack}")
        counts.append(len(known.hf.get_submodule(stack)))
    mine, his = counts
    if mine > his:
        raise MethodError(f"the student has {mine} layers and the original {his}", where=_WHERE)
    return tuple(f"{names[0]}.{i}={names[1]}.{round((i + 1) * his / mine) - 1}" for i in range(mine))


def attention_pairs(student: nn.Module, teacher: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[str, ...]:
    """The same for the parts within the layers that give attention probabilities.

    Args:
        student: From :func:`showing_attention`.
        teacher: Likewise.
        inputs: Example inputs.

    Raises:
        MethodError: A layer gives none.
    """
    places = [_giving_attention(module, inputs) for module in (student, teacher)]
    found = []
    for pair in layer_pairs(student, teacher):
        parts = []
        for layer, names in zip(pair.split("="), places, strict=True):
            name = next((name for name in names if name.startswith(f"{layer}.")), None)
            if name is None:
                raise MethodError(f"layer '{layer}' gives no attention that could be imitated", where=_WHERE)
            parts.append(name)
        found.append("=".join(parts))
    return tuple(found)


def showing_attention(module: nn.Module) -> nn.Module:
    """A copy of a Hugging Face model that computes its attention in steps, so that the probabilities can be seen.

    Anything else is returned as it is.
    """
    known = hugging_face(module)
    if known is None:
        return module
    config: Any = copy.deepcopy(known.hf.config)
    config._attn_implementation = "eager"
    made = rebuilt(known, config, known.hf.state_dict(), _WHERE)
    made.hf.config.output_attentions = True
    return made


def as_before(module: nn.Module, before: nn.Module) -> nn.Module:
    """Take a trained copy's weights back into a model like the one that the copy was made of."""
    known, original = hugging_face(module), hugging_face(before)
    if known is None or original is None:
        return module
    return rebuilt(original, copy.deepcopy(original.hf.config), known.hf.state_dict(), _WHERE)


def attention_in(output: Any) -> Tensor | None:
    """The attention probabilities ``(N, heads, L, L)`` in what a part returned."""
    import torch

    parts = output if isinstance(output, (tuple, list)) else ()
    return next((x for x in parts if isinstance(x, torch.Tensor) and x.ndim == 4 and x.shape[2] == x.shape[3]), None)


def _giving_attention(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    """Names of the parts that return attention, in the order in which they finish."""
    import torch

    found: list[str] = []

    def listen(name: str) -> Any:
        def heard(part: nn.Module, given: object, output: Any) -> None:
            if attention_in(output) is not None:
                found.append(name)

        return heard

    handles = [part.register_forward_hook(listen(name)) for name, part in module.named_modules() if name]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found

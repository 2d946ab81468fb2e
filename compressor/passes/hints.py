"""A student with ears: hooks that hear what its layers and the teacher's put out, and projectors between the two."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import MethodError, nearest
from compressor.passes.hf_hints import attention_in
from compressor.passes.losses import masked_mean
from compressor.passes.training import first_output

_WHERE = "distill"

_SMALLEST = 1e-9


class Learner(nn.Module):
    """A student that gives its first output and the outputs of some of its layers, brought to the teacher's width.

    Attributes:
        student: The student itself.
        kinds: What is compared of each layer: ``feature``, ``attention`` or ``heads``.
        projectors: One per layer; linear where student and teacher differ in one axis (Romero et al. 2015, section
            2.2, with the regressor along that axis alone), nothing where they do not.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        features: tuple[str, ...],
        attention: tuple[str, ...],
        inputs: tuple[Tensor, ...],
        heads: tuple[str, ...] = (),
        answer: Callable[[Any], Tensor] = first_output,
    ) -> None:
        """Listen to the layers.

        Args:
            student: In eval mode.
            teacher: In eval mode; it does not become a part of this module.
            features: Layers whose outputs are compared element by element, ``name`` or ``student=teacher``.
            attention: Layers whose attention maps are compared.
            inputs: Example inputs.
            heads: Parts whose attention probabilities are compared.
            answer: From what the student returns to what is compared with the labels.

        Raises:
            MethodError: There is no such layer, or its outputs cannot be compared.
        """
        super().__init__()
        self.student = student
        self._answer = answer
        self._mine: dict[int, Tensor] = {}
        self._wanted: dict[int, Tensor] = {}
        self._handles = []
        pairs = (*features, *attention, *heads)
        seen = len(features) + len(attention)
        for index, pair in enumerate(pairs):
            mine, _, his = pair.partition("=")
            for model, who, name, heard in (
                (student, "student", mine, self._mine),
                (teacher, "original", his or mine, self._wanted),
            ):
                self._handles.append(
                    _layer(model, who, name).register_forward_hook(partial(_hear, heard, index, index >= seen))
                )
        if pairs:
            with torch.no_grad():
                student(*inputs)
                teacher(*inputs)
        self.kinds = ("feature",) * len(features) + ("attention",) * len(attention) + ("heads",) * len(heads)
        self.projectors = nn.ModuleList()
        for index, pair in enumerate(pairs):
            if index not in self._mine or index not in self._wanted:
                self.unhook()
                raise MethodError(f"layer '{pair}' is not called by forward()", where=_WHERE)
            if index >= seen:
                self.projectors.append(nn.Identity())
                continue
            shapes = tuple(self._mine[index].shape), tuple(self._wanted[index].shape)
            try:
                self.projectors.append(_projector(pair, *shapes, attention=index >= len(features)))
            except MethodError:
                self.unhook()
                raise

    def forward(self, *inputs: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Run the student.

        Returns:
            Its answer, and the projected outputs of the layers: features first, then attention, then heads; ``None``
            for a layer that was not run, as some transformers leave out layers at random while they are trained.
        """
        self._mine.clear()
        found = self._answer(self.student(*inputs))
        mine = [self._mine.get(index) for index in range(len(self.projectors))]
        return found, [x if x is None else projector(x) for x, projector in zip(mine, self.projectors, strict=True)]

    def wanted(self) -> list[Tensor]:
        """What the teacher's layers put out when it was last run, in the same order."""
        return [self._wanted[index] for index in range(len(self.projectors))]

    def unhook(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()
        self._mine.clear()
        self._wanted.clear()


class _AlongAxis(nn.Module):
    """A linear layer along one axis."""

    def __init__(self, axis: int, inside: int, outside: int) -> None:
        super().__init__()
        self.axis = axis
        self.linear = nn.Linear(inside, outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.movedim(self.axis, -1)).movedim(-1, self.axis)


def attention_map(features: Tensor) -> Tensor:
    """Where a layer looks: squares summed over the channels, each map scaled to norm 1.

    Source: Zagoruyko and Komodakis 2017, "Paying more attention to attention", equations 1 and 2.

    Args:
        features: ``(N, C, H, W)``.

    Returns:
        ``(N, H * W)``.
    """
    return nn.functional.normalize(features.float().square().mean(1).flatten(1))


def heads_apart(mine: Tensor, his: Tensor, mask: Tensor | None) -> Tensor:
    """How far a student's attention is from its teacher's: the Kullback-Leibler divergence of where each token looks.

    Source: Wang et al. 2020, "MiniLM: Deep self-attention distillation", equation 4, here of every layer. Where the
    numbers of heads differ, the means over the heads are compared.

    Args:
        mine: The student's probabilities, ``(N, heads, L, L)``.
        his: The teacher's.
        mask: ``(N, L)``, 0 for tokens that only fill up.

    Returns:
        The mean over examples, heads and tokens.
    """
    if mine.shape[1] != his.shape[1]:
        mine, his = mine.mean(1, keepdim=True), his.mean(1, keepdim=True)
    mine, his = mine.float().clamp_min(_SMALLEST), his.float().clamp_min(_SMALLEST)
    return masked_mean((his * (his.log() - mine.log())).sum(-1).mean(1), mask)


def _hear(heard: dict[int, Tensor], index: int, heads: bool, module: nn.Module, inputs: object, output: object) -> None:
    found = attention_in(output) if heads else first_output(output)
    if found is not None:
        heard[index] = found


def _layer(model: nn.Module, who: str, name: str) -> nn.Module:
    # A traced graph keeps the names of its layers for their weights, but does not call them.
    known = {} if isinstance(model, torch.fx.GraphModule) else {n: part for n, part in model.named_modules() if n}
    if not known:
        raise MethodError(
            f"the {who} is an exported program, whose layers cannot be listened to",
            where=_WHERE,
            mend="give the model as weights with --arch, or leave out features and attention",
        )
    if name not in known:
        raise MethodError(f"the {who} has no layer '{name}'", where=_WHERE, mend=nearest(name, known))
    return known[name]


def _projector(pair: str, mine: tuple[int, ...], his: tuple[int, ...], *, attention: bool) -> nn.Module:
    text = f"layer '{pair}' gives {mine} in the student and {his} in the original"
    if attention:
        if len(mine) != 4 or len(his) != 4 or mine[2:] != his[2:]:
            raise MethodError(text, where=_WHERE, mend="attention needs pictures (N, C, H, W) of one height and width")
        return nn.Identity()
    differ = [axis for axis, (a, b) in enumerate(zip(mine, his, strict=False)) if a != b]
    if len(mine) != len(his) or len(differ) > 1 or 0 in differ:
        raise MethodError(text, where=_WHERE, mend="they may differ in one axis only")
    return _AlongAxis(differ[0], mine[differ[0]], his[differ[0]]) if differ else nn.Identity()

"""Structured pruning: whole channels, neurons and attention heads are taken out, so the model is smaller everywhere.

A Hugging Face model stays one: its heads and the neurons of its feed-forward blocks go, and its configuration says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from compressor.errors import MethodError, nearest
from compressor.passes.augment import augmentations
from compressor.passes.base import Context
from compressor.passes.importance import Importance
from compressor.results import Step
from compressor.rules import Ruled, touched

if TYPE_CHECKING:
    from compressor.model.base import TorchModel
    from compressor.passes.graph import ChannelGraph, Removed
    from compressor.passes.grouping import Group

Scope = Literal["global", "uniform"]

NOTHING_GOES = "each reaches the model's inputs or outputs, meets a tensor of fixed size, or is the only one"
"""Why no channel can be removed."""

_NAMES = {"parameters": "parameters", "flops": "FLOPs", "time": "time"}


@dataclass(frozen=True)
class Prune(Ruled):
    """Remove channels until a share of the parameters, of the FLOPs or of the time of a call is gone.

    At most one of the three is given; without any, half of the FLOPs go.

    Attributes:
        parameters: Share of the parameters to remove, above 0 and below 1.
        flops: Share of the floating-point operations to remove.
        time: Share of the measured time of a call to remove. Searched for among shares of the FLOPs, each tried in one
            step without fine-tuning; at most ten models are timed.
        importance: ``magnitude``, ``taylor`` (needs labelled training examples) or ``random``.
        scope: ``global`` removes what matters least in the whole model, ``uniform`` the same share of every layer. Of a
            Hugging Face model it decides on heads, where its kind can have a different number in every layer; the
            neurons of all feed-forward blocks shrink alike, and by the share that the heads do.
        steps: In how many steps; importance is computed anew before each, and what is left shrinks by the same factor.
        finetune_epochs: Passes over the training examples after every step; 0 for none.
        learning_rate: Of fine-tuning; ``None`` as for :class:`~compressor.passes.training.Training`.
        augment: How fine-tuning changes its inputs, likewise.
        round_to: Layers keep a multiple of this many channels, or all: processors compute in vectors.
        rules: Which layers may lose output channels, as :mod:`compressor.rules` has it. Their inputs shrink with the
            layers before them all the same.
    """

    name: ClassVar[str] = "prune"
    parameters: float | None = None
    flops: float | None = None
    time: float | None = None
    importance: Importance = "magnitude"
    scope: Scope = "global"
    steps: int = 1
    finetune_epochs: int = 0
    learning_rate: float | None = None
    round_to: int = 8
    rules: tuple[str, ...] = ()
    augment: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = [goal for goal in _NAMES if getattr(self, goal) is not None]
        if len(given) > 1:
            raise MethodError(f"has {len(given)} targets, {', '.join(given)}", where=self.name, mend="give one of them")
        if not given:
            object.__setattr__(self, "flops", 0.5)
        self._require(self._goal[0], 0 < self._goal[1] < 1, "a share above 0 and below 1")
        self._require("steps", self.steps >= 1, "at least 1")
        self._require("finetune_epochs", self.finetune_epochs >= 0, "at least 0")
        self._require("learning_rate", self.learning_rate is None or self.learning_rate > 0, "above 0")
        self._require("round_to", self.round_to >= 1, "at least 1")
        for setting, kind in (("importance", Importance), ("scope", Scope)):
            value = getattr(self, setting)
            if value not in get_args(kind):
                raise MethodError(f"has no {setting} '{value}'", where=self.name, mend=nearest(value, get_args(kind)))
        object.__setattr__(self, "augment", augmentations(self.augment, self.name))
        super().__post_init__()

    def _require(self, setting: str, fine: bool, wanted: str) -> None:
        if not fine:
            raise MethodError(f"{setting} is {getattr(self, setting)}, not {wanted}", where=self.name)

    @property
    def _goal(self) -> tuple[str, float]:
        """What is to shrink, and by which share."""
        return next((goal, value) for goal in _NAMES if (value := getattr(self, goal)) is not None)

    def apply(self, model: TorchModel, context: Context) -> TorchModel:
        """Build the smaller model; see :class:`~compressor.passes.base.TorchPass`.

        Raises:
            MethodError: Nothing can be removed, the target cannot be reached, the smaller model does not run, or
                there are no labelled training examples where they are needed.
            RecipeError: A rule matches nothing.
            ExportError: The model cannot be traced.
        """
        from compressor.passes.batch_norms import adapted
        from compressor.passes.hf_prune import channel_graph
        from compressor.passes.training import finetune, labelled_examples

        if self.time is not None:
            return self._by_time(model, context)
        if self.finetune_epochs:
            labelled_examples(context, self.name)  # before the work, not after it
        first = graph = channel_graph(model)
        chosen = self._touched(graph)
        (what, share), notes, current, rate = self._goal, list(first.remarks), model, self.learning_rate
        settled: tuple[str, ...] = ()
        for step in range(1, self.steps + 1):
            limit = _size(first, what)(first.none) * (1 - share) ** (step / self.steps)
            if _size(graph, what)(graph.none) > limit:  # rounding may have gone further before
                current = graph.without(self._select(graph, chosen, limit, context, first))
                settled = adapted(current, context)
            if self.finetune_epochs:
                tuned = finetune(
                    current, context, epochs=self.finetune_epochs, learning_rate=rate, augment=self.augment
                )
                done = tuned.steps[-1]
                notes += [note if self.steps == 1 else f"Step {step} of {self.steps}: {note}" for note in done.notes]
                rate = float(done.settings["learning_rate"] or 0)
                current = replace(tuned, steps=current.steps)
            graph = channel_graph(current)
        sizes = {key: (_size(first, key)(first.none), _size(graph, key)(graph.none)) for key in ("parameters", "flops")}
        settings: dict[str, str | int | float | bool | None] = {
            **asdict(self),
            "learning_rate": rate,
            "rules": "; ".join(self.rules),
            "augment": ", ".join(self.augment),
        }
        settings |= {f"removed_{key}": round(1 - after / max(1, before), 4) for key, (before, after) in sizes.items()}
        notes += settled
        if not self.finetune_epochs:
            notes.append("Not fine-tuned: accuracy comes back with training or distillation.")
        return replace(
            current, steps=(*model.steps, Step(self.name, settings, (*_account(first, graph, sizes, chosen), *notes)))
        )

    def _by_time(self, model: TorchModel, context: Context) -> TorchModel:
        """Find the share of the FLOPs with which the wanted share of the time goes, and remove that."""
        from compressor.passes.grouping import choose
        from compressor.passes.hf_prune import channel_graph
        from compressor.passes.importance import importance
        from compressor.passes.time_search import smallest_share

        measure, wanted = context.measure, self._goal[1]
        if measure is None:
            mend = "give parameters or flops instead"
            raise MethodError("time is not measured here, so it cannot be a target", where=self.name, mend=mend)
        graph = channel_graph(model)
        groups = self._groups(graph, self._touched(graph))
        scores = self._finite(importance(graph, self.importance, context))
        known: dict[bytes, float] = {}

        def removed(share: float) -> Removed:
            limit = graph.flops(graph.none) * (1 - share)
            return choose(graph, groups, scores, graph.flops, limit, uniform=self.scope == "uniform")

        def seconds(share: float) -> float:
            gone = removed(share)
            if gone.tobytes() not in known or share in tried:  # asked again: the first time was not believed
                known[gone.tobytes()] = min(measure(graph.without(gone)), known.get(gone.tobytes(), float("inf")))
            tried.add(share)
            return known[gone.tobytes()]

        tried: set[float] = set()
        # A hair less than the most, which as a share need not be the same number again.
        most = (1 - graph.flops(removed(1.0)) / graph.flops(graph.none)) * (1 - 1e-9)
        before = measure(model)
        found = smallest_share(seconds, before, wanted, most)
        if found is None:
            saved = 1 - known[removed(most).tobytes()] / before
            raise MethodError(
                f"cannot remove {wanted:.1%} of the time: removing {most:.1%} of the FLOPs saves {saved:.1%}"
                f"{_through(graph)}",
                where=self.name,
                mend="lower time or round_to, or give flops",
            )
        smaller = replace(self, time=None, flops=found[0]).apply(model, context)
        # In several steps other channels go, with other times.
        after = found[1] if self.steps == 1 else measure(smaller)
        step = smaller.steps[-1]
        notes = [
            f"Time of a call {before * 1e3:.3g} ms → {after * 1e3:.3g} ms ({after / before - 1:+.1%}), by removing "
            f"{found[0]:.1%} of the FLOPs, as was found by measuring."
        ]
        if after > before * (1 - wanted):
            notes.insert(0, f"Less of the time went than the {wanted:.1%} that was wanted: give time a larger share.")
        step = replace(step, settings={**step.settings, "flops": None, "time": wanted}, notes=(*notes, *step.notes))
        return replace(smaller, steps=(*smaller.steps[:-1], step))

    def _touched(self, graph: ChannelGraph) -> frozenset[str]:
        layers = {layer.name: layer.op for layer in graph.layers}
        if not layers:
            raise MethodError(
                "the model has no convolution, linear layer or embedding with weights of its own", where=self.name
            )
        chosen = touched(layers, self.parsed)
        if not chosen:
            raise MethodError("the rules leave no layer to prune", where=self.name, mend="exclude fewer layers")
        return chosen

    def _select(
        self, graph: ChannelGraph, chosen: frozenset[str], limit: float, context: Context, first: ChannelGraph
    ) -> Removed:
        from compressor.passes.grouping import choose
        from compressor.passes.importance import importance

        groups = self._groups(graph, chosen)
        size = _size(graph, self._goal[0])
        scores = self._finite(importance(graph, self.importance, context))
        removed = choose(graph, groups, scores, size, limit, uniform=self.scope == "uniform")
        if size(removed) > limit:
            before = _size(first, self._goal[0])(first.none)
            what, share = self._goal
            most = 1 - size(removed) / before
            raise MethodError(
                f"cannot remove {share:.1%} of the {_NAMES[what]}: at most {most:.1%} can go{_through(graph)}",
                where=self.name,
                mend=f"lower {what} or round_to{', or change the rules' if self.rules else ''}",
            )
        return removed

    def _groups(self, graph: ChannelGraph, chosen: frozenset[str]) -> tuple[Group, ...]:
        """What may be removed; something has to be there."""
        groups = graph.groups(chosen, self.round_to)
        if not groups:
            remarks = "".join(f"; {remark.rstrip('.')}" for remark in graph.remarks)
            rules = " under these rules" if self.rules else ""
            raise MethodError(
                f"no channel can be removed{rules}: {NOTHING_GOES}{_through(graph)}{remarks}", where=self.name
            )
        return groups

    def _finite(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        if not np.isfinite(scores).all():
            raise MethodError("the model's weights or gradients are not finite", where=self.name)
        return scores


def _size(graph: ChannelGraph, what: str) -> Callable[[Removed], int]:
    return graph.parameter_count if what == "parameters" else graph.flops


def _through(graph: ChannelGraph) -> str:
    return f"; channels cannot be followed through {', '.join(graph.untouchable)}" if graph.untouchable else ""


def _account(
    before: ChannelGraph, after: ChannelGraph, sizes: dict[str, tuple[int, int]], chosen: frozenset[str]
) -> list[str]:
    """What came out, in sentences."""
    totals = ", ".join(
        f"{_NAMES[key]}{' per example' if key == 'flops' else ''} {was:,} → {now:,} ({now / max(1, was) - 1:+.1%})"
        for key, (was, now) in sizes.items()
    )
    notes = [f"{totals[0].upper()}{totals[1:]}.", *before.changes(after)]
    if excluded := [layer.name for layer in before.layers if layer.name not in chosen]:
        notes.append(f"Left alone by the rules: {', '.join(excluded)}.")
    if before.untouchable:
        notes.append(
            f"Channels cannot be followed through {', '.join(before.untouchable)}; they were left as they are."
        )
    return notes

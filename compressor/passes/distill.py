"""Distillation: a smaller model learns to answer as the original does.

Sources: Hinton, Vinyals and Dean 2015 (outputs); Romero et al. 2015, "FitNets" (features); Zagoruyko and Komodakis
2017, "Paying more attention to attention" (attention maps); Jiao et al. 2020, "TinyBERT", and Wang et al. 2020,
"MiniLM" (hidden states and attention of transformers).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.errors import MethodError
from compressor.model.signature import one_line
from compressor.passes.base import Context
from compressor.passes.checkpoint import copy_of, fingerprint
from compressor.passes.hf_hints import ALL, as_before, attention_pairs, layer_pairs, showing_attention
from compressor.passes.hf_rebuild import hugging_face, of_inputs, without_cache
from compressor.passes.losses import masked_mean
from compressor.passes.students import KINDS, Wanted, check_student, make_student
from compressor.passes.training import (
    Batch,
    Loss,
    Tick,
    Training,
    describe,
    label_loss,
    meaning_on,
    set_training,
    settings_of,
    sparse,
)
from compressor.results import Step
from compressor.task.base import Examples
from compressor.task.metrics import show_shape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.model.base import TorchModel
    from compressor.passes.hints import Learner
    from compressor.passes.losses import Meaning


LARGEST_CACHE = 2 * 2**30
"""Bytes of the original's outputs up to which they are kept; a language model's are larger than its texts by far."""


@dataclass(frozen=True)
class Distill(Training):
    """Train a student to give the original model's outputs.

    Attributes:
        student: ``same``: the model of the stage before, such as a pruned one; ``layers``: that with fewer of its
            equal layers; ``narrower``: that with narrower layers; ``package.module:callable`` or ``file.py:callable``:
            a model of your own.
        layers: Share of the equal layers that ``layers`` keeps, below 1, or their number.
        width: Share of the channels of every layer that ``narrower`` keeps; of a Hugging Face model, of the heads and
            of the neurons of the feed-forward blocks.
        fresh: Whether ``narrower`` starts from new weights instead of the most important channels'.
        temperature: What logits are divided by before they are compared.
        weight: Share of the loss that the original's outputs have, 0..1; the labels have the rest.
        features: Layers whose outputs the student imitates too, by name; ``student=original`` where they differ;
            ``layers`` for all layers of a Hugging Face model.
        feature_weight: Factor of their mean squared error.
        attention: Layers with pictures inside, ``(N, C, H, W)``, whose attention maps the student imitates; ``layers``
            for the attention of all layers of a Hugging Face model.
        attention_weight: Factor of the maps' mean squared difference, or of the divergence of a Hugging Face model's
            attention; ``None`` for 1000, which is the paper's, and for 1.
        unlabeled: Learn from the original's outputs alone; without training examples, on the calibration examples.
    """

    name: ClassVar[str] = "distill"
    student: str = "same"
    layers: float = 0.5
    width: float = 0.5
    fresh: bool = False
    temperature: float = 4.0
    weight: float = 0.9
    features: tuple[str, ...] = ()
    feature_weight: float = 1.0
    attention: tuple[str, ...] = ()
    attention_weight: float | None = None
    unlabeled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_student(self.student, self.name)
        whole = self.layers >= 1 and float(self.layers).is_integer()
        self.require("layers", 0 < self.layers < 1 or whole, "a share below 1 or a number of layers")
        self.require("width", 0 < self.width < 1, "above 0 and below 1")
        self.require("temperature", 0 < self.temperature < float("inf"), "above 0")
        self.require("weight", 0 <= self.weight <= 1, "from 0 to 1")
        self.require("feature_weight", self.feature_weight >= 0, "at least 0")
        self.require("attention_weight", self.attention_weight is None or self.attention_weight >= 0, "at least 0")
        # Recipes have lists.
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "attention", tuple(self.attention))

    def apply(
        self, model: TorchModel, context: Context, on_progress: Callable[[Tick], None] | None = None
    ) -> TorchModel:
        """Train the student; see :class:`~compressor.passes.base.TorchPass`.

        Args:
            model: The model of the stage before.
            context: The original model is its ``teacher``.
            on_progress: Called after every step and every validation.

        Raises:
            MethodError: There is no original or nothing to train on, student and original do not fit, a layer is not
                there, or the loss is not finite.
            OSError: A checkpoint or the original's outputs cannot be written.
        """
        import torch

        from compressor.passes.hints import Learner
        from compressor.passes.loop import fit, one_process_first

        if context.teacher is None:
            raise MethodError(
                "there is no original model to learn from", where=self.name, mend="give a PyTorch model, not ONNX"
            )
        examples, notes = self._examples(context)
        examples = of_inputs(examples, model)
        asked = Wanted(self.student, self.layers, self.width, self.fresh)
        smaller, note = make_student(asked, model, examples, context, self.name)
        notes.insert(0, note)
        teacher, student = copy_of(context.teacher.module).requires_grad_(False), smaller.module
        set_training(student, False)
        example = without_cache(model).example_inputs
        meaning = meaning_on(teacher, context.teacher, examples, context, self.name)
        _check_fit(student, teacher, example, meaning)
        fixed = model.inputs[0].shape[0]
        key = fingerprint(teacher, examples)
        if examples.targets is None and fingerprint(student, examples) == key:
            raise MethodError(
                "the student is the original itself, and without labels it has nothing to learn",
                where=self.name,
                mend="prune before, or name another student",
            )
        training = self.settled(teacher)
        if ALL in self.attention:
            teacher, student = showing_attention(teacher), showing_attention(student)
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(context.seed)
            learner = Learner(student, teacher, *self._hints(student, teacher, example), meaning.answer)
        if self.features or self.attention or self.augment:
            # Features would be many times the size of the data, and changed inputs are new in every epoch.
            outputs = None
            notes.append("The original runs beside the student in every step.")
        else:
            batch = fixed or training.batch or 1
            with one_process_first(context.threads):
                outputs = _cached_outputs(teacher, examples, context, key, batch, meaning)
            notes.append(
                "The original runs beside the student in every step, as its outputs would be large."
                if outputs is None
                else "The original's outputs were computed once."
            )
        loss = self._loss(meaning, examples, teacher, outputs, learner, _mask_at(teacher))
        try:
            progress = fit(
                learner,
                examples,
                loss,
                training,
                context,
                key=key,
                fixed_batch=fixed,
                keep_zeros=sparse(model) and self.student in KINDS and not self.fresh,
                on_progress=on_progress,
            )
        finally:
            learner.unhook()
        if student is not smaller.module:
            student = as_before(student, smaller.module)
        step = Step(self.name, settings_of(training), (*notes, *describe(progress, training, meaning)))
        return replace(smaller, module=student, steps=(*model.steps, step))

    def _hints(
        self, student: nn.Module, teacher: nn.Module, inputs: tuple[Tensor, ...]
    ) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Tensor, ...], tuple[str, ...]]:
        """The layers to listen to: for features, for attention maps and, behind the inputs, for attention."""
        features, maps = ([name for name in names if name != ALL] for names in (self.features, self.attention))
        if ALL in self.features:
            features += layer_pairs(student, teacher)
        heads = attention_pairs(student, teacher, inputs) if ALL in self.attention else ()
        return tuple(features), tuple(maps), inputs, heads

    def _examples(self, context: Context) -> tuple[Examples, list[str]]:
        examples = context.task.training()
        if examples is not None and len(examples):
            if examples.targets is None:
                return examples, ["The training examples have no labels: the student learns from the original alone."]
            return (Examples(examples.inputs, None), []) if self.unlabeled else (examples, [])
        if not self.unlabeled:
            raise MethodError(
                "there are no training examples",
                where=self.name,
                mend="give data with a part to train on, or set unlabeled to learn from the original's outputs on the "
                "calibration examples",
            )
        inputs = context.task.calibration().inputs
        return Examples(inputs, None), [f"Trained on the {len(inputs[0])} calibration examples, without labels."]

    def _loss(
        self,
        meaning: Meaning,
        examples: Examples,
        teacher: nn.Module,
        outputs: NDArray[np.generic] | None,
        learner: Learner,
        mask_at: int | None,
    ) -> Loss:
        import torch

        from compressor.passes.hints import attention_map, heads_apart

        hard = None if examples.targets is None else label_loss(meaning, examples)
        maps, heads = (self.attention_weight if self.attention_weight is not None else each for each in (1000.0, 1.0))

        def loss(found: tuple[Tensor, list[Tensor | None]], batch: Batch) -> Tensor:
            student, hints = found
            mask = None if mask_at is None else batch.inputs[mask_at]
            if outputs is None:
                with torch.no_grad():
                    original = meaning.answer(teacher.to(student.device)(*batch.inputs))
            else:
                original = torch.from_numpy(np.array(outputs[batch.rows])).to(student.device)
            total = meaning.teacher_loss(student, original, self.temperature, mask)
            if hard is not None:
                total = self.weight * total + (1 - self.weight) * hard(student, batch)
            for kind, mine, his in zip(learner.kinds, hints, learner.wanted(), strict=True):
                if mine is None:
                    continue
                if kind == "feature":
                    total = total + self.feature_weight * masked_mean((mine.float() - his.float()).square(), mask)
                elif kind == "attention":
                    total = total + maps * (attention_map(mine) - attention_map(his)).square().mean()
                else:
                    total = total + heads * heads_apart(mine, his, mask)
            return total

        return loss


def _mask_at(module: nn.Module) -> int | None:
    """Which input of a Hugging Face model says which tokens only fill up."""
    known = hugging_face(module)
    return known.input_names.index("attention_mask") if known and "attention_mask" in known.input_names else None


def _check_fit(student: nn.Module, teacher: nn.Module, inputs: tuple[Tensor, ...], meaning: Meaning) -> None:
    """Require that a student takes the original's inputs and gives an answer of the original's shape."""
    import torch

    with torch.inference_mode():
        wanted = tuple(meaning.answer(teacher(*inputs)).shape)
        try:
            given = tuple(meaning.answer(student(*inputs)).shape)
        except Exception as error:  # whatever the student's own code or torch raises at inputs it was not made for
            raise MethodError(
                f"the student does not run on the model's inputs: {one_line(error)}", where=Distill.name
            ) from error
    if given != wanted:
        raise MethodError(
            f"the student's output is {show_shape((None, *given[1:]))}, "
            f"the original's is {show_shape((None, *wanted[1:]))}",
            where=Distill.name,
            mend="give a student with the same outputs",
        )


def _cached_outputs(
    teacher: nn.Module, examples: Examples, context: Context, key: str, batch: int, meaning: Meaning
) -> NDArray[np.generic] | None:
    """The teacher's answers on all examples, mapped from a file in the context's folder if it has one.

    Returns:
        They; ``None`` if they would be larger than :data:`LARGEST_CACHE`.
    """
    import torch

    path = None if context.workdir is None else context.workdir / f"teacher-{key}.npy"
    if path is not None and path.exists():
        return np.load(path, mmap_mode="r")
    # A name of its own for each process: several train together, and a file cut short under a map is a bus error.
    partial = None if path is None else path.with_suffix(f".{os.getpid()}.partial")
    made: NDArray[np.generic] | None = None
    count = len(examples)
    with torch.inference_mode():
        for start in range(0, count, batch):
            # A fixed batch gets its last call filled up from the beginning.
            rows = np.arange(start, start + batch) % count
            inputs = (torch.from_numpy(np.ascontiguousarray(x[rows])) for x in examples.inputs)
            found = meaning.answer(teacher(*inputs)).float().numpy()
            if not np.isfinite(found).all():
                raise MethodError(
                    "the original's outputs on the training examples are NaN or infinite",
                    where=Distill.name,
                    mend="check the data and the model",
                )
            if made is None:
                if found[0].nbytes * count > LARGEST_CACHE:
                    return None
                made = _room((count, *found.shape[1:]), partial)
            made[start : start + batch] = found[: count - start]
    if made is None or path is None or partial is None:
        return np.zeros(0, np.float32) if made is None else made
    made.flush()  # type: ignore[attr-defined]  # a memmap here
    del made
    os.replace(partial, path)
    return np.load(path, mmap_mode="r")


def _room(shape: tuple[int, ...], path: Path | None) -> NDArray[np.generic]:
    """An array to be filled, in a file if there is a path; its blocks are taken now, so that a full disk shows now."""
    if path is None:
        return np.empty(shape, np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    room: NDArray[np.generic] = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            except OSError:
                path.unlink()
                raise
    return room

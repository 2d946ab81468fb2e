"""How models are trained: the settings, the loss by the labels, and fine-tuning; the loop itself is in ``loop``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from compressor.errors import MethodError, nearest
from compressor.model.signature import one_line
from compressor.passes.augment import augmentations
from compressor.passes.base import Context
from compressor.passes.checkpoint import Progress, copy_of
from compressor.passes.hf_rebuild import hugging_face, of_inputs
from compressor.passes.losses import Meaning, meaning_for_task, meaning_of, meaning_of_labels
from compressor.results import Step
from compressor.task.base import Examples

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from compressor.model.base import TorchModel

Optimizer = Literal["adamw", "sgd"]

Rows = NDArray[np.int64]

MASKING = frozenset({"prune-unstructured", "prune-2:4"})
"""Methods that set weights to 0."""

_SAMPLE = 256

_RATE, _TRANSFORMER_RATE = 1e-3, 5e-5
_BATCH, _TRANSFORMER_BATCH = 128, 32


@dataclass(frozen=True)
class Training:
    """How a model is trained.

    Attributes:
        epochs: Most passes over the training examples.
        learning_rate: The highest one; it rises over the first tenth of all steps and falls to 0 by a cosine. ``None``
            for 1e-3, and for 5e-5 with a Hugging Face model (Devlin et al. 2019, "BERT", appendix A.3).
        batch: Examples per step, over all devices together; a model with a fixed batch is trained with that. ``None``
            for 128, and for 32 with a Hugging Face model (the same source).
        optimizer: ``adamw``, or ``sgd`` with a momentum of 0.9.
        validation: Share of the training examples that are not trained on but choose the epoch; 0 keeps the last one.
        patience: Stop after as many epochs without a smaller validation loss.
        checkpoint_minutes: How often progress is saved, beside at the end of every epoch; 0 for every step.
        augment: How every batch is changed at random: ``shift`` (pictures, by up to an eighth of their size),
            ``mirror`` (left to right, half of the pictures; not where a mirror image means something else, as with
            letters), ``package.module:callable`` or ``file.py:callable`` that gets a batch of inputs (a tuple of
            tensors) and a ``torch.Generator`` and returns them changed; several in order, as a list or with commas.
    """

    name: ClassVar[str] = "training"
    epochs: int = 10
    learning_rate: float | None = None
    batch: int | None = None
    optimizer: Optimizer = "adamw"
    validation: float = 0.1
    patience: int = 5
    checkpoint_minutes: float = 10.0
    augment: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.require("epochs", self.epochs >= 1, "at least 1")
        self.require("learning_rate", self.learning_rate is None or 0 < self.learning_rate < math.inf, "above 0")
        self.require("batch", self.batch is None or self.batch >= 1, "at least 1")
        self.require("validation", 0 <= self.validation < 1, "from 0 to below 1")
        self.require("patience", self.patience >= 1, "at least 1")
        self.require("checkpoint_minutes", self.checkpoint_minutes >= 0, "at least 0")
        if self.optimizer not in get_args(Optimizer):
            mend = nearest(self.optimizer, get_args(Optimizer))
            raise MethodError(f"has no optimizer '{self.optimizer}'", where=self.name, mend=mend)
        object.__setattr__(self, "augment", augmentations(self.augment, self.name))

    def settled(self, module: torch.nn.Module) -> Self:
        """The same with the settings that depend on the model filled in."""
        transformer = hugging_face(module) is not None
        rate = self.learning_rate or (_TRANSFORMER_RATE if transformer else _RATE)
        return replace(self, learning_rate=rate, batch=self.batch or (_TRANSFORMER_BATCH if transformer else _BATCH))

    def require(self, setting: str, fine: bool, wanted: str) -> None:
        """Refuse a setting that is out of range.

        Raises:
            MethodError: It is.
        """
        if not fine:
            raise MethodError(f"{setting} is {getattr(self, setting)}, not {wanted}", where=self.name)


@dataclass(frozen=True)
class Batch:
    """What one step is computed on.

    Attributes:
        inputs: One tensor per input of the model, on the device.
        rows: Which of the examples they are.
    """

    inputs: tuple[Tensor, ...]
    rows: Rows


Loss = Callable[[Any, Batch], "Tensor"]
"""From what the module returned and the batch to a scalar, the mean over the batch."""


@dataclass(frozen=True)
class Tick:
    """News of a run.

    Attributes:
        epoch: The running epoch, from 1.
        step: Finished steps of it.
        steps: Steps of every epoch.
        loss: Of the last step; the validation loss at the end of an epoch that has one.
        validated: Whether ``loss`` is the validation loss.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    validated: bool = False


def finetune(
    model: TorchModel,
    context: Context,
    *,
    epochs: int,
    learning_rate: float | None = None,
    batch: int | None = None,
    augment: tuple[str, ...] = (),
    on_progress: Callable[[Tick], None] | None = None,
) -> TorchModel:
    """Train a copy of a model on the task's training examples.

    Args:
        model: The model; it stays as it is.
        context: Data, seed, threads, and the folder for checkpoints.
        epochs: Most passes over the data.
        learning_rate: The highest one; ``None`` as for :class:`Training`.
        batch: Examples per step, likewise.
        augment: How every batch is changed, likewise.
        on_progress: Called after every step and every validation.

    Returns:
        The trained copy.

    Raises:
        MethodError: There are no labelled training examples, they do not match the model's output, or the loss is not
            finite.
        OSError: A checkpoint cannot be written.
    """
    from compressor.passes.loop import fit

    training = _FineTuning(epochs=epochs, learning_rate=learning_rate, batch=batch, augment=augment)
    training = training.settled(model.module)
    examples = of_inputs(labelled_examples(context, training.name), model)
    module = copy_of(model.module)
    meaning = meaning_on(module, model, examples, context, training.name)
    progress = fit(
        module,
        examples,
        label_loss(meaning, examples),
        training,
        context,
        fixed_batch=model.inputs[0].shape[0],
        keep_zeros=sparse(model),
        on_progress=on_progress,
    )
    step = Step(training.name, settings_of(training), describe(progress, training, meaning))
    return replace(model, module=module, steps=(*model.steps, step))


def sparse(model: TorchModel) -> bool:
    """Whether a method before has set weights to 0, which training must not fill again."""
    return any(step.method in MASKING for step in model.steps)


class _FineTuning(Training):
    name: ClassVar[str] = "finetune"


def labelled_examples(context: Context, where: str) -> Examples:
    """The task's training examples.

    Raises:
        MethodError: There are none, or they have no labels.
    """
    examples = context.task.training()
    if examples is None or len(examples) == 0:
        raise MethodError("there are no training examples", where=where, mend="give data with a part to train on")
    if examples.targets is None:
        raise MethodError("the training examples have no labels", where=where, mend="give data with labels")
    return examples


def label_loss(meaning: Meaning, examples: Examples) -> Loss:
    """The loss against the examples' labels, which must not be ``None``."""

    def loss(outputs: Any, batch: Batch) -> Tensor:
        found = meaning.answer(outputs)
        wanted = meaning.targets(np.asarray(examples.targets)[batch.rows])
        return meaning.label_loss(found, wanted.to(found.device))

    return loss


def meaning_on(module: torch.nn.Module, model: TorchModel, examples: Examples, context: Context, where: str) -> Meaning:
    """Run a module on some examples and tell what its output is.

    Args:
        module: In eval mode.
        model: The model whose inputs it takes.
        examples: All examples.
        context: For the task's metric.
        where: The method, for messages.

    Raises:
        MethodError: The labels do not match the output.
    """
    import torch

    count = model.inputs[0].shape[0] or min(_SAMPLE, len(examples))
    rows = np.arange(count) % len(examples)
    with torch.inference_mode():
        found = module(*(torch.from_numpy(np.ascontiguousarray(x[rows])) for x in examples.inputs))
    metric = context.task.summary.metric
    if (known := hugging_face(model.module)) is not None:
        if known.hf.config.problem_type == "multi_label_classification":
            return meaning_of_labels(first_output(found), examples.targets, where)
        meaning = meaning_for_task(known.task, found, examples.targets, where)
        if meaning is not None:
            return meaning
        return meaning_of(first_output(found), examples.targets, metric, where)
    meaning = meaning_of(first_output(found), examples.targets, metric, where)
    return replace(meaning, others=len(_tensors(found)) - 1)


@contextmanager
def one_line_if_untrainable(where: str) -> Iterator[None]:
    """Say in one line why a model that runs cannot be trained.

    Raises:
        MethodError: What is done inside failed.
    """
    import torch

    try:
        yield
    except (RuntimeError, ValueError, MemoryError, AssertionError) as error:
        text = one_line(error)
        if "min nan" in text:  # torchao's observers
            raise MethodError(
                "an activation is NaN", where=where, mend="give a smaller learning_rate, and check the data for NaN"
            ) from error
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text:
            raise MethodError("ran out of memory", where=where, mend="give a smaller batch") from error
        if "more than 1 value per channel" in text:
            raise MethodError(
                "a batch norm was given one example, whose statistics mean nothing",
                where=where,
                mend="give more training examples, or a larger batch",
            ) from error
        raise MethodError(f"the model runs but cannot be trained: {text}", where=where) from error


def first_output(found: Any) -> Tensor:
    """The first tensor of whatever a module returned: a tensor, a tuple, a dictionary."""
    return _tensors(found)[0]


def _tensors(found: Any) -> list[Tensor]:
    import torch

    return [x for x in torch.utils._pytree.tree_leaves(found) if isinstance(x, torch.Tensor)]


def settings_of(training: Training) -> dict[str, str | int | float | bool | None]:
    """The settings for the record; lists are joined."""
    return {key: ", ".join(value) if isinstance(value, tuple) else value for key, value in asdict(training).items()}


def describe(progress: Progress, training: Training, meaning: Meaning) -> tuple[str, ...]:
    """How training went, in sentences."""
    only = (f"Only the first of the model's {1 + meaning.others} outputs was trained: see what became of the others.",)
    return (_outcome(progress, training), *(only if meaning.others else ()))


def _outcome(progress: Progress, training: Training) -> str:
    ran = f"Trained for {progress.epoch} of {training.epochs} epochs"
    if progress.best is None or progress.first is None:
        return f"{ran}; the last weights are kept."
    if progress.best_epoch == 0:
        return f"{ran}; no epoch lowered the validation loss of {progress.first:.4g}, so the weights stay as they were."
    kept = f"the weights of epoch {progress.best_epoch} are kept"
    return f"{ran}; {kept}: validation loss {progress.first:.4g} → {progress.best:.4g}."


def set_training(module: torch.nn.Module, training: bool) -> None:
    """Switch between training and eval mode; a graph from an exported program has one mode only and keeps it."""
    try:
        module.train(training)
    except NotImplementedError:  # the graph itself, or one inside the module, refuses
        for part in module.modules():
            part.training = training

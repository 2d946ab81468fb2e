"""Quantization-aware training: fine-tuning with int8's rounding in the forward pass, for ``int8`` to follow.

torchao's fake quantization does the rounding; where, is decided here. torchao 0.18's own way (``prepare_qat_pt2e`` with
``X86InductorQuantizer``) refuses networks whose blocks call one ReLU module twice, as torchvision's ResNets do ("Input
partition has more than one output node"), turns batch norms traced in eval mode back to the statistics of each batch,
and its quantized programs become ONNX graphs that are slow. So only the trained weights are taken back, into the
unquantized model, and ONNX Runtime's quantizer writes the graph later.

Weights are rounded per output channel and symmetrically, for which a batch norm behind them makes no difference: folded
into the weights it scales each channel and its step alike.

Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
inference".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compressor.passes.base import Context
from compressor.passes.checkpoint import copy_of
from compressor.passes.int8_plan import Types
from compressor.passes.training import (
    Tick,
    Training,
    describe,
    label_loss,
    labelled_examples,
    meaning_on,
    one_line_if_untrainable,
    set_training,
    settings_of,
    sparse,
)
from compressor.results import Step
from compressor.tracing import trace

if TYPE_CHECKING:
    from compressor.model.base import TorchModel


@dataclass(frozen=True)
class Qat(Training):
    """Train the weights to survive int8; only ``int8`` after it makes the model smaller and faster.

    Attributes:
        learning_rate: The highest one; smaller than for training from scratch, as the weights are good already.
    """

    name: ClassVar[str] = "qat"
    epochs: int = 5
    learning_rate: float = 1e-4

    def apply(
        self, model: TorchModel, context: Context, on_progress: Callable[[Tick], None] | None = None
    ) -> TorchModel:
        """Train a copy; see :class:`~compressor.passes.base.TorchPass`.

        The model is trained as traced in eval mode: batch norms keep their statistics and nothing is dropped.

        Args:
            model: The model of the stage before.
            context: Data, seed, threads, the folder for checkpoints, and the target's instruction sets.
            on_progress: Called after every step and every validation.

        Raises:
            MethodError: Nothing in the model can be quantized, there are no labelled training examples or they do not
                match the model's output, or the loss is not finite.
            ExportError: The model cannot be traced.
            OSError: A checkpoint cannot be written.
        """
        import torch

        from compressor.passes.loop import fit
        from compressor.passes.simulate import simulate

        training = self.settled(model.module)
        examples = labelled_examples(context, self.name)
        meaning = meaning_on(model.module, model, examples, context, self.name)
        types = Types.of(context.cpu_features)
        program = trace(replace(model, module=copy_of(model.module)))
        simulated, count, kind = simulate(program, types.activation, types.reduce_range, self.name)
        fixed = model.inputs[0].shape[0]
        # First ranges, so that what is validated before training is int8 already.
        set_training(simulated, True)
        with torch.no_grad(), one_line_if_untrainable(self.name):
            rows = np.arange(fixed or min(training.batch or 1, len(examples))) % len(examples)
            simulated(*(torch.from_numpy(x[rows]) for x in examples.inputs))
        progress = fit(
            simulated,
            examples,
            label_loss(meaning, examples),
            training,
            context,
            key=f"{types.activation} {types.reduce_range}",
            fixed_batch=fixed,
            keep_zeros=sparse(model),
            on_progress=on_progress,
        )
        module = copy_of(model.module)
        _take_over(module, simulated.graph)
        settings: dict[str, Any] = {
            **settings_of(training),
            "activations": types.activation,
            "reduce_range": types.reduce_range,
        }
        notes = (
            f"Rounding of {count} layers was simulated, activations {kind}.",
            *describe(progress, training, meaning),
            "The weights are fp32 still: int8 has to follow.",
        )
        return replace(model, module=module, steps=(*model.steps, Step(self.name, settings, notes)))


def _take_over(module: Any, trained: Any) -> None:
    """Copy parameters by name; tracing keeps the names."""
    import torch

    weights = dict(trained.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, value in module.named_parameters(remove_duplicate=False):
            if name in weights:
                value.copy_(weights[name])

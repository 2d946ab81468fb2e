"""Hugging Face models as torch runs them: the module that the rest of the project sees, loading and saving it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from compressor.model.base import PAST, PRESENT


class HuggingFaceModule(nn.Module):
    """A ``transformers`` model that takes its inputs by position and returns tensors.

    Attributes:
        hf: The ``transformers.PreTrainedModel``.
        task: ``optimum``'s name of its task, e.g. ``text-classification`` or ``text-generation-with-past``.
        input_names: What ``forward`` takes, in order, under the names of the ONNX model's inputs.
        output_names: What it returns, in order, under the names of the ONNX model's outputs.
    """

    def __init__(self, hf: nn.Module, task: str, input_names: Sequence[str], output_names: Sequence[str]) -> None:
        super().__init__()
        self.hf: Any = hf
        self.task = task
        self.input_names = tuple(input_names)
        self.output_names = tuple(output_names)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the model.

        Args:
            inputs: One tensor per name in ``input_names``; the last ones may be left out. With a causal model's cache
                (which may be empty, of length 0) the new cache is returned behind the logits.

        Returns:
            One tensor per name in ``output_names``, not in a tuple if it is one only.
        """
        given = dict(zip(self.input_names, inputs, strict=False))
        past = [given.pop(name) for name in self.input_names if name.startswith(PAST) and name in given]
        if not past:
            found = self.hf(**given, **self._no_cache(), return_dict=True)
            wanted = [name for name in self.output_names if not name.startswith(PRESENT)]
            return _one_or_all([found[name] for name in wanted])
        from transformers.cache_utils import DynamicCache

        cache = DynamicCache()
        for layer, (key, value) in enumerate(zip(past[::2], past[1::2], strict=True)):
            cache.update(key, value, layer)
        found = self.hf(**given, past_key_values=cache, use_cache=True, return_dict=True)
        kept = [tensor for layer in found["past_key_values"].layers for tensor in (layer.keys, layer.values)]
        return (found["logits"], *kept)

    def _no_cache(self) -> dict[str, bool]:
        return {"use_cache": False} if any(name.startswith(PAST) for name in self.input_names) else {}


def _one_or_all(tensors: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
    return tensors[0] if len(tensors) == 1 else tuple(tensors)

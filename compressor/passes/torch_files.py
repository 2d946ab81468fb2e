"""What methods share whose result is a file that only PyTorch runs; :mod:`compressor.torchao_file` describes the file.

Each operator or layer that does arithmetic is counted and named, and a model in which nothing was changed is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compressor.errors import MethodError
from compressor.passes.base import Context
from compressor.results import Step, TensorSpec
from compressor.rules import Ruled
from compressor.torchao_file import About

if TYPE_CHECKING:
    from compressor.model.base import TorchModel

# fmt: off
COMPUTE = frozenset({
    "addmm", "baddbmm", "bmm", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "convolution", "einsum", "gru", "linear", "lstm", "matmul", "mm", "rnn_relu", "rnn_tanh",
    "scaled_dot_product_attention",
})
"""ATen operators that do a model's arithmetic."""
# fmt: on
COMPUTE_LAYERS = ("Linear", "Conv1d", "Conv2d", "Conv3d", "Conv1D", "LSTM", "GRU", "RNN", "MultiheadAttention")
"""Classes of layers that do it in the modules of Hugging Face."""
BY_RULE = "excluded by a rule"


@dataclass(frozen=True)
class TorchFile(Ruled):
    """Such a method; see :class:`~compressor.passes.base.FilePass`.

    Attributes:
        rules: Which layers, as :mod:`compressor.rules` has it.
    """

    name: ClassVar[str]
    precision: ClassVar[str]
    counted: ClassVar[str]
    """What the notes call what is counted."""

    rules: tuple[str, ...] = ()

    def apply(self, model: TorchModel, target: Path, context: Context) -> Step:
        """Write the changed model to ``target``; see :class:`~compressor.passes.base.FilePass`.

        Raises:
            MethodError: The device has no kernel for it, or no layer could be changed.
            ExportError: The model cannot be traced.
            RecipeError: A rule matches nothing.
        """
        from compressor.model.huggingface import HuggingFaceModule

        self.require(context.device)
        if isinstance(model.module, HuggingFaceModule):
            about = self._huggingface(model, model.module, target, context.device)
        else:
            about = self._program(model, target, context.device)
        settings: dict[str, Any] = {k: v if not isinstance(v, tuple) else ",".join(v) for k, v in asdict(self).items()}
        total = len(about.layers) + len(about.left)
        notes = [f"{about.precision}: {len(about.layers)} of {total} {self.counted}."]
        for why in sorted(set(about.left.values())):
            named = sorted(name for name, reason in about.left.items() if reason == why)
            more = f" and {len(named) - 3} more" if len(named) > 3 else ""
            notes.append(f"Left as it was, {why}: {', '.join(named[:3])}{more}.")
        return Step(self.name, settings, tuple(notes))

    def require(self, device: str) -> None:
        """See that a device can run the result."""
        raise NotImplementedError

    def _program(self, model: TorchModel, target: Path, device: str) -> About:
        """Change the traced graph and write it."""
        raise NotImplementedError

    def _huggingface(self, model: TorchModel, module: Any, target: Path, device: str) -> About:
        """Change the modules of a Hugging Face model and write them."""
        raise NotImplementedError

    def _require_some(self, changed: Iterable[str], left: Mapping[str, str]) -> None:
        if not changed:
            reasons = "; ".join(f"{why}: {count}" for why, count in sorted(Counter(left.values()).items()))
            raise MethodError(
                f"changed nothing in this model ({reasons or 'it has no layer that does arithmetic'})",
                where=self.name,
                mend="use int8, which works on the exported graph",
            )

    def _about(
        self,
        model: TorchModel,
        changed: Iterable[str],
        left: dict[str, str],
        by_op: Mapping[str, int],
        outputs: tuple[TensorSpec, ...],
        *,
        config: dict[str, Any] | None = None,
        bfloat16: bool = False,
    ) -> About:
        from importlib.metadata import version

        return About(
            method=self.name,
            precision=self.precision,
            config=config or {},
            layers=tuple(sorted(changed)),
            left=left,
            by_op=dict(sorted(by_op.items())),
            bfloat16=bfloat16,
            inputs=model.inputs,
            outputs=outputs,
            files={},
            versions={package: version(package) for package in ("torch", "torchao")},
        )

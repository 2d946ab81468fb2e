"""The kinds of Pass.

A TorchPass turns a torch model into another, a GraphPass an ONNX file into another, and a FilePass a torch model into a
file that only PyTorch runs.

A pass is a frozen dataclass whose fields are its settings (and so its recipe keys). It never changes its input, never
sees a meter, and raises :class:`~compressor.errors.MethodError` when it matched nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from compressor.results import Step
from compressor.task.base import Task

if TYPE_CHECKING:
    from compressor.model.base import TorchModel


@dataclass(frozen=True)
class Context:
    """What a pass may use beside the model.

    Attributes:
        task: Data to calibrate or train on.
        seed: Of everything random.
        threads: How many threads it may keep busy.
        cpu_features: The target's instruction sets that matter to low precision, as
            :class:`~compressor.results.Environment` names them.
        workdir: A folder for checkpoints that survives an interrupt; ``None`` to keep none.
        teacher: The user's own model, for methods that learn from it; ``None`` if it came in as ONNX.
        batch: Examples per call that the result will be run with; what a method times, it times so.
        run_threads: Threads that one call of the result will use, likewise.
        measure: Seconds of one call of a model in the form in which it will be run; ``None`` where nobody measures.
        device: Where the result will run: ``cpu``, ``cuda`` or ``cuda:N``.
        on_progress: Told by what takes long: seconds done, seconds that all of it is expected to take, and what is
            going on; ``None`` where nobody listens.
    """

    task: Task
    seed: int = 0
    threads: int = 1
    cpu_features: tuple[str, ...] = ()
    workdir: Path | None = None
    teacher: TorchModel | None = None
    batch: int = 1
    run_threads: int = 1
    measure: Callable[[TorchModel], float] | None = None
    device: str = "cpu"
    on_progress: Callable[[float, float, str], None] | None = None


class TorchPass(Protocol):
    """Torch model in, torch model out."""

    @property
    def name(self) -> str:
        """The method's name on the command line and in recipes."""

    def apply(self, model: TorchModel, context: Context) -> TorchModel:
        """Build the changed model; the given one stays as it is.

        Args:
            model: The model as it comes out of the stage before.
            context: Data, seed, threads, and a folder for checkpoints.

        Returns:
            A new model in eval mode whose ``steps`` end with what was done, with the settings as used and what was
            left alone.

        Raises:
            MethodError: Nothing in the model matched, a setting cannot be met, or there is nothing to train on.
        """


class GraphPass(Protocol):
    """ONNX file in, ONNX file out."""

    @property
    def name(self) -> str:
        """The method's name on the command line and in recipes."""

    def apply(self, source: Path, target: Path, context: Context) -> Step:
        """Write the changed model to ``target``.

        Args:
            source: An ONNX file; it is only read.
            target: Where to write; its folder exists, it does not.
            context: Data, seed and threads.

        Returns:
            What was done, with the settings as used and what was left alone.

        Raises:
            MethodError: Nothing in the model matched, the model is already compressed so, or the calibration data
                cannot serve.
        """


class FilePass(Protocol):
    """Torch model in, a file out that PyTorch alone runs: the last method of a line."""

    @property
    def name(self) -> str:
        """The method's name on the command line and in recipes."""

    def require(self, device: str) -> None:
        """See that a device can run the result.

        Args:
            device: ``cpu``, ``cuda`` or ``cuda:N``.

        Raises:
            MethodError: It cannot.
        """

    def apply(self, model: TorchModel, target: Path, context: Context) -> Step:
        """Write the changed model to ``target``; the given one stays as it is.

        Args:
            model: The model as it comes out of the stage before.
            target: The ``model.safetensors`` to write; its folder exists and is for it alone.
            context: Data, seed, threads and the device that it will run on.

        Returns:
            What was done, with the settings as used and what was left alone.

        Raises:
            MethodError: Nothing in the model matched, or the device cannot run the result.
        """

"""What is asked for, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from compressor.results import Report


class Listener(Protocol):
    """Told what is going on."""

    def stage(self, name: str, resumed: bool) -> None:
        """A stage begins, or was found finished."""

    def progress(self, done_s: float, total_s: float, text: str) -> None:
        """How far the measurement is, in seconds."""


@dataclass(frozen=True)
class Method:
    """One compression method with its settings.

    Attributes:
        name: Its name in the registry.
        settings: What differs from its defaults.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What is asked for; the fields are the command line's options.

    Attributes:
        model: The model file, a Hugging Face folder, or the name of a model on its hub.
        methods: Compression methods in order; a name, or a :class:`Method` with settings.
        data: Data as ``--data`` takes them; ``None`` to measure agreement on synthetic inputs.
        metric: Metric's name or callable; ``None`` to choose by the data.
        target: CSV column that holds the target.
        arch: ``package.module:callable`` or ``file.py:callable`` that builds the module of a state dict.
        input_shapes: Shape of each input without the batch axis, where neither file nor data tell.
        allow_pickle: Whether a pickled module may be loaded, which runs its code.
        max_loss: How much score may be lost, in the score's unit (0.01 is one point of accuracy).
        preset: ``quick``, ``default`` or ``certify``.
        batch: Examples per call; ``None`` for 1, or the model's own if that is fixed.
        threads: Threads of the runtime.
        meters: Meters by name; empty for every measuring one that can be read, else ``cpu-time``.
        watts_per_core: For ``cpu-time``.
        seed: Of everything random.
        out: Folder to write; ``None`` for ``compressed/MODEL-METHOD``.
        overwrite: Start over and replace what is there.
        hf_task: Task of a Hugging Face model; by its architecture if ``None``.
        trust_remote_code: Whether Python code that a Hugging Face folder brings may be run.
        text: Columns of the text, or of the two texts of a pair; found by name if ``None``.
        max_length: Tokens that every text is cut or padded to; ``None`` for 128.
        runtimes: Runtimes to compare: each runs the baselines and the result where it can; empty for the usual one of
            each file's format.
        device: Where to measure: ``cpu``, ``cuda`` or ``cuda:N``.
    """

    model: Path
    methods: tuple[Method, ...] = (Method("int8"),)
    data: str | None = None
    metric: str | None = None
    target: str | None = None
    arch: str | None = None
    input_shapes: tuple[tuple[int, ...], ...] | None = None
    allow_pickle: bool = False
    max_loss: float = 0.01
    preset: str = "default"
    batch: int | None = None
    threads: int = 1
    meters: tuple[str, ...] = ()
    watts_per_core: float | None = None
    seed: int = 0
    out: Path | None = None
    overwrite: bool = False
    hf_task: str | None = None
    trust_remote_code: bool = False
    text: tuple[str, ...] | None = None
    max_length: int | None = None
    runtimes: tuple[str, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class Outcome:
    """What a run left.

    Attributes:
        report: Everything it found.
        folder: Where the files are.
        interrupted: Whether Ctrl-C ended the measurement before its last block.
    """

    report: Report
    folder: Path
    interrupted: bool

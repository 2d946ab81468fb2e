"""Generating text token by token, on any runtime: prefill, greedy decoding with a cache, and both as things to measure.

A causal language model with a cache takes ``input_ids``, usually a mask and positions, and ``past_key_values.*``; it
gives ``logits`` and ``present.*``, which is the next call's cache. Such an ONNX file and such a torch module differ in
nothing that is seen here. *Prefill* is the one call that takes the whole prompt; it multiplies matrices by matrices and
is bound by arithmetic. *Decode* takes one token per call; it multiplies matrices by vectors and is bound by the memory
that the weights come from, so a method may well help one and hurt the other. They are measured apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError, RuntimeUnavailableError
from compressor.model.base import PAST, PRESENT, Arrays
from compressor.results import Workload
from compressor.runtimes.base import Session
from compressor.runtimes.device import CPU
from compressor.runtimes.registry import open_session

_KNOWN = ("input_ids", "attention_mask", "position_ids")
Tokens = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class State:
    """Where a generation is.

    Attributes:
        token: The next token to feed, ``(batch, 1)``.
        cache: One array (or tensor on the device) per cache input, ``(batch, heads, length, size)``.
        length: Tokens that the cache holds.
    """

    token: Tokens
    cache: tuple[Any, ...]
    length: int


class Decoder:
    """Greedy generation with a cache, over a loaded model.

    Args:
        session: A causal language model with a cache.

    Raises:
        DataError: It is none.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        names = [spec.name for spec in session.inputs]
        outputs = [spec.name for spec in session.outputs]
        past = [name for name in names if name.startswith(PAST)]
        wanted = [name.replace(PAST, PRESENT) for name in past]
        if not past or "input_ids" not in names or "logits" not in outputs or not set(wanted) <= set(outputs):
            raise DataError(
                "generates no text: it lacks input_ids, past_key_values and logits with present",
                mend="export it with its cache (task text-generation-with-past)",
            )
        if odd := [name for name in names if name not in _KNOWN and name not in past]:
            raise DataError(f"takes the input '{odd[0]}', for which generation has no value")
        self._logits = outputs.index("logits")
        self._presents = [outputs.index(name) for name in wanted]

    def prefill(self, prompt: Tokens) -> State:
        """Run a whole prompt.

        Args:
            prompt: ``(batch, tokens)``.

        Returns:
            The state behind it, with the most likely next token.
        """
        specs = [spec for spec in self.session.inputs if spec.name.startswith(PAST)]
        sizes = ((len(prompt), *(0 if size is None else size for size in spec.shape[1:])) for spec in specs)
        empty = tuple(np.zeros(size, spec.dtype) for size, spec in zip(sizes, specs, strict=True))
        return self._call(State(prompt, empty, 0))

    def step(self, state: State) -> State:
        """Run one token, ``(batch, 1)``, and choose the next."""
        return self._call(state)

    def generate(self, prompt: Tokens, new_tokens: int) -> Tokens:
        """The most likely tokens behind a prompt, ``(batch, new_tokens)``."""
        state = self.prefill(prompt)
        found = [state.token]
        for _ in range(new_tokens - 1):
            state = self.step(state)
            found.append(state.token)
        return np.concatenate(found, axis=1)

    def _call(self, state: State) -> State:
        batch, count = state.token.shape
        total = state.length + count
        cache = iter(state.cache)
        feed: list[Any] = []
        for spec in self.session.inputs:
            if spec.name == "input_ids":
                feed.append(state.token)
            elif spec.name == "attention_mask":
                feed.append(np.ones((batch, total), np.int64))
            elif spec.name == "position_ids":
                feed.append(np.broadcast_to(np.arange(state.length, total), (batch, count)).copy())
            else:
                feed.append(next(cache))
        found = self._run(feed)
        best = found[self._logits][:, -1].argmax(-1)
        # A tensor's tokens come to the CPU, which waits for all that they depend on; its cache stays where it is.
        token = np.asarray(best.cpu() if hasattr(best, "cpu") else best, np.int64)[:, None]
        return State(token, tuple(found[index] for index in self._presents), total)

    def _run(self, feed: list[Any]) -> tuple[Any, ...]:
        run_tensors = getattr(self.session, "run_tensors", None)
        return self.session.run(tuple(feed)) if run_tensors is None else run_tensors(feed)


def open_language_model(path: Path, runtime: str | None = None, *, threads: int = 1, device: str = CPU) -> Session:
    """Load a causal language model: a Hugging Face folder, or an ONNX file.

    Args:
        path: The folder (one that ``compress stream`` wrote, too) or the file.
        runtime: Name of the runtime; ``None`` for torch for a folder, and by its format for a file.
        threads: Threads that one call may use.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        CompressorError: It cannot be loaded.
    """
    if not path.is_dir():
        if device != CPU:
            raise RuntimeUnavailableError(
                f"is not measured on {device}: its cache would travel there and back at every token",
                where=path,
                mend="give the Hugging Face folder, whose cache torch keeps on the device",
            )
        return open_session(path, runtime, threads=threads)
    if runtime not in (None, "torch"):
        raise RuntimeUnavailableError(f"{runtime} does not run folders", where=path, mend="use torch for it")
    from compressor.runtimes.folder import FolderSession
    from compressor.runtimes.torch import require

    require(device)
    return FolderSession(path, threads, device)


class WorkloadRun:
    """A workload on a loaded model, as the benchmark's worker runs it.

    Args:
        session: A causal language model with a cache.
        workload: What is measured.

    Raises:
        DataError: The model generates no text.
    """

    def __init__(self, session: Session, workload: Workload) -> None:
        self._decoder, self._workload = Decoder(session), workload

    def prepare(self, batches: Sequence[Arrays]) -> list[Any]:
        """Do what is not measured: cut the prompts, and for decode run them.

        Args:
            batches: Token numbers, ``(batch, at least prompt_tokens)`` each.

        Returns:
            One thing per batch to give to :meth:`run`.
        """
        count = self._workload.prompt_tokens
        prompts = [np.ascontiguousarray(arrays[0][:, :count], np.int64) for arrays in batches]
        if self._workload.phase == "prefill":
            return prompts
        return [self._decoder.prefill(prompt) for prompt in prompts]

    def run(self, item: Any) -> None:
        """Run a prompt, or ``new_tokens`` steps behind one; returns when they are computed."""
        if self._workload.phase == "prefill":
            self._decoder.prefill(item)
            return
        for _ in range(self._workload.new_tokens):
            item = self._decoder.step(item)

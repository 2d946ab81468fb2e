"""What pays: layers that are timed in int8 and in fp32, inside their own graph, on this CPU.

A layer's int8 kernel may be faster and the layer still slower, because its input has to be quantized first. So no
operator is timed alone: whole graphs are, which differ in one group of layers, by turns, so that a busy machine slows
both. No meter is read; what is decided is recorded, and the same decision gives the same file.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compressor.model.base import Arrays

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GAIN = 0.05
"""int8 must save at least this part of the whole graph's time, or fp32 is kept."""

GROUP_GAIN = 0.02
"""A group is moved to the other precision if that saves at least this part of the whole graph's time."""

HEATS = 3
ROUNDS = 25
TURN_S = 0.002
HEAT_S = 2.0
"""A heat has up to ROUNDS rounds, of two turns of at least TURN_S each, and fewer (5 at least) if they last HEAT_S."""

Build = Callable[[frozenset[str]], Path]
"""From the layers that are to be int8 to a file of that model."""


@dataclass(frozen=True)
class Payoff:
    """What was decided.

    Attributes:
        kept: Layers that stay int8; none if int8 does not pay.
        speed: Time of the chosen int8 model over that of the fp32 model.
        groups: Each group's layers, and the time of the whole graph with the group in int8 over the time without.
    """

    kept: frozenset[str]
    speed: float
    groups: tuple[tuple[tuple[str, ...], float], ...]


def find_paying(
    plain: Path, groups: Sequence[tuple[str, ...]], build: Build, feed: Arrays, threads: int, heat: Heat | None = None
) -> Payoff:
    """Find the layers that are worth being int8.

    Where the whole int8 graph is faster than the plain one, each group is taken out of it by turns; where it is not,
    each group alone is put into the plain graph. What saved time that way is put together and timed again, so that a
    choice that looked good part by part has to prove itself as a whole.

    Args:
        plain: The model in fp32.
        groups: Layers that are decided on together.
        build: Writes the model with the given layers in int8.
        feed: Inputs of one call.
        threads: Threads of one call.
        heat: Times two files against each other and gives the second's time over the first's; for tests.

    Returns:
        The decision.
    """
    run = heat or Stopwatch(feed, threads).heat
    every = frozenset(layer for group in groups for layer in group)
    full = build(every)
    whole = _repeated(run, plain, full)
    pays = whole <= 1 - GAIN
    base = full if pays else plain
    ratios = []
    for group in groups:
        if len(groups) == 1:
            ratios.append(whole)
        elif pays:
            ratios.append(1 / run(base, build(every - set(group))))
        else:
            ratios.append(run(base, build(frozenset(group))))
    limit = 1 / (1 - GROUP_GAIN) if pays else 1 - GROUP_GAIN
    chosen = frozenset(layer for group, ratio in zip(groups, ratios, strict=True) if ratio < limit for layer in group)
    rows = tuple(zip((tuple(group) for group in groups), ratios, strict=True))
    if chosen and chosen != every:
        part = build(chosen)
        speed = _repeated(run, plain, part)
        if speed <= 1 - GAIN and (not pays or _repeated(run, full, part) <= 1 - GROUP_GAIN):
            return Payoff(chosen, speed, rows)
    return Payoff(every if pays else frozenset(), whole, rows)


def is_faster(first: Path, second: Path, feed: Arrays, threads: int) -> bool:
    """Whether a model is faster than another, by enough to be sure of.

    Args:
        first: An ONNX file.
        second: The one that may be faster.
        feed: Inputs of one call.
        threads: Threads of one call.
    """
    return _repeated(Stopwatch(feed, threads).heat, first, second) <= 1 - GROUP_GAIN


Heat = Callable[[Path, Path], float]


def _repeated(heat: Heat, first: Path, second: Path) -> float:
    """Fresh sessions each time: how memory happens to be laid out is worth a percent or two."""
    return statistics.median(heat(first, second) for _ in range(HEATS))


@dataclass(frozen=True)
class Stopwatch:
    """Times files against each other in this process.

    Attributes:
        feed: Inputs of one call.
        threads: Threads of one call.
    """

    feed: Arrays
    threads: int

    def heat(self, first: Path, second: Path) -> float:
        """Time two models by turns.

        Args:
            first: An ONNX file.
            second: Another.

        Returns:
            The second's time over the first's, of the fastest turn of each: what else runs on the machine only ever
            adds time.
        """
        runners = [self._load(path) for path in (first, second)]
        for run in runners:
            run()
        once = [_time(run, 1) for run in runners]
        calls = [max(1, round(TURN_S / max(seconds, 1e-6))) for seconds in once]
        turn = sum(seconds * count for seconds, count in zip(once, calls, strict=True))
        rounds = int(np.clip(HEAT_S / max(turn, 1e-6), 5, ROUNDS))
        best = [math.inf, math.inf]
        for index in range(rounds):
            for which in (0, 1) if index % 2 == 0 else (1, 0):
                best[which] = min(best[which], _time(runners[which], calls[which]))
        return best[1] / best[0]

    def seconds(self, path: Path) -> float:
        """Time one model: its fastest turn, per call.

        Args:
            path: An ONNX file.
        """
        run = self._load(path)
        run()
        once = _time(run, 1)
        calls = max(1, round(TURN_S / max(once, 1e-6)))
        rounds = int(np.clip(HEAT_S / max(once * calls, 1e-6), 5, ROUNDS))
        return min(_time(run, calls) for _ in range(rounds))

    def _load(self, path: Path) -> Callable[[], object]:
        session = load(path, self.threads)
        feed = {value.name: array for value, array in zip(session.get_inputs(), self.feed, strict=True)}
        return lambda: session.run(None, feed)


def layer_errors(
    plain: Path, layers: Sequence[str], build: Build, inputs: Arrays, threads: int, batch: int
) -> dict[str, float]:
    """How much each layer alone, in int8, moves the model's first output.

    Args:
        plain: The model in fp32.
        layers: Names of the layers.
        build: Writes the model with the given layers in int8.
        inputs: Examples, one array per model input.
        threads: Threads of one call.
        batch: Examples per call.

    Returns:
        Layer to ``‖int8 output - fp32 output‖ / ‖fp32 output‖`` over all examples.
    """
    expected = _outputs(plain, inputs, threads, batch)
    return {layer: _distance(_outputs(build(frozenset([layer])), inputs, threads, batch), expected) for layer in layers}


def output_error(plain: Path, changed: Path, inputs: Arrays, threads: int, batch: int) -> float:
    """How much a model's first output differs from the fp32 model's, relative to its norm.

    Args:
        plain: The model in fp32.
        changed: The other.
        inputs: Examples, one array per model input.
        threads: Threads of one call.
        batch: Examples per call.
    """
    return _distance(*(_outputs(path, inputs, threads, batch) for path in (changed, plain)))


def _distance(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(found - expected)) / (float(np.linalg.norm(expected)) or 1.0)


def load(path: Path, threads: int) -> InferenceSession:
    """Load a model as it will be run: ONNX Runtime's CPU provider, threads that do not spin."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _outputs(path: Path, inputs: Arrays, threads: int, batch: int) -> NDArray[np.float64]:
    session = load(path, threads)
    names = [value.name for value in session.get_inputs()]
    first = session.get_outputs()[0].name
    parts = []
    for start in range(0, len(inputs[0]) // batch * batch, batch):
        feed = {name: array[start : start + batch] for name, array in zip(names, inputs, strict=True)}
        parts.append(np.asarray(session.run([first], feed)[0], np.float64).ravel())
    return np.concatenate(parts)


def _time(run: Callable[[], object], calls: int) -> float:
    """Seconds of one call: the mean over a turn, which is what a user pays."""
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - started) / calls

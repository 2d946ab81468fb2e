"""Several processes, one run: the first one is the run, the others help it to train and then leave.

The first process does all the work as if it were alone; before a method on the PyTorch model it tells the others what
it is about to do, and they do the same with the model and the data that they have loaded themselves. What one process
could find otherwise than another (importance, times) is the first one's word. After the last method that trains the
others leave, so that nobody waits while the rest is scored and measured.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from compressor import processes
from compressor.errors import CompressorError, MethodError
from compressor.passes.training import Training

if TYPE_CHECKING:
    from compressor.model.base import TorchModel

GRACE_S = 10.0
"""A launcher ends all processes once one has failed. Whoever may only suffer from another's failure waits for that so
long before it speaks, so that the cause is told once."""

_LOST = ("connection closed", "connection reset", "remote process exited", "broken pipe")


class Together:
    """The processes of a run, seen from one of them; a run without a launcher has one, and all of this does nothing.

    Args:
        passes: The methods of the run, in order.
    """

    def __init__(self, passes: Sequence[object]) -> None:
        self._last = max((index for index, one in enumerate(passes) if _trains(one)), default=-1)
        self._count = processes.count()
        if self._last < 0 and not processes.follows():
            processes.part()

    def do(self, work: Callable[..., TorchModel], *arguments: Any) -> TorchModel:
        """Do a stage in all processes that are still there.

        Args:
            work: What to do; the others call their own in :meth:`follow`.
            arguments: Its arguments, which are sent to the others.

        Raises:
            MethodError: Another process has ended; beside what the work raises.
        """
        if processes.count() == 1:
            return work(*arguments)
        try:
            _from_first(arguments)
            made = work(*arguments)
        except (RuntimeError, CompressorError) as error:
            if not any(sign in str(error).lower() for sign in _LOST):
                raise
            time.sleep(GRACE_S)
            raise MethodError("another process of this training has ended", where="training") from error
        note = f"{self._count} processes worked together; CPU time, and energy by cpu-time, are the first one's alone."
        step = made.steps[-1]
        return replace(made, steps=(*made.steps[:-1], replace(step, notes=(*step.notes, note))))

    def part_after(self, index: int) -> None:
        """Let the others leave, once no method that trains is to come.

        Args:
            index: The method that is done.
        """
        if index == self._last and processes.count() > 1:
            _from_first(None)
            _leave()

    def follow(self, work: Callable[..., TorchModel]) -> NoReturn:
        """Do with the first process what it says, in silence, until it says that this is all.

        Args:
            work: What to do with the arguments that it sends.

        Raises:
            SystemExit: Always: 0 in the end; after an error, which is told here, its exit code.
        """
        # Nothing here needs to be put away, and whatever waits for another process would not see Ctrl-C.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._last < 0:
            sys.exit(0)
        try:
            while (arguments := _from_first(None)) is not None:
                work(*arguments)
            _leave()
        except Exception as error:
            time.sleep(GRACE_S)
            known = isinstance(error, CompressorError)
            said = f"error: {error}" if known else traceback.format_exc()
            print(f"process {processes.rank()} of {self._count}: {said}", file=sys.__stderr__, flush=True)
            sys.exit(error.exit_code if isinstance(error, CompressorError) else 1)
        sys.exit(0)

    def agreed(self, measure: Callable[[TorchModel], float]) -> Callable[[TorchModel], float]:
        """A measurement that the first process makes and all believe.

        Args:
            measure: What measures a model.
        """
        if self._count == 1:
            return measure
        return lambda model: _from_first(0.0 if processes.follows() else measure(model))


def _trains(one: object) -> bool:
    return isinstance(one, Training) or bool(getattr(one, "finetune_epochs", 0))


def _from_first(value: Any) -> Any:
    from compressor.passes.loop import from_first

    return from_first(value)


def _leave() -> None:
    from compressor.passes.loop import leave

    with suppress(RuntimeError):  # the other end may have gone already
        leave()

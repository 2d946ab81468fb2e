"""Errors a user can mend: each says what is wrong, where, and what to do about it.

Everything the package raises on purpose derives from :class:`CompressorError`. The command line prints such an error
as one line and exits with :attr:`CompressorError.exit_code`; anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CompressorError(Exception):
    """A mistake in the input, or a limit of this machine, that the user can mend.

    Args:
        what: What is wrong, in one clause.
        where: The file, option or layer concerned; printed in front of ``what``.
        mend: What the user can do about it; printed behind ``what``.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: object = None, mend: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.mend = mend
        super().__init__(what)

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        text = text if self.mend is None else f"{text}; {self.mend}"
        # One line whatever a library's message or a file's name holds.
        return " ".join(text.split())


class ModelError(CompressorError):
    """The model file cannot be read, or is not what the options say it is."""


class UnsafeFileError(ModelError):
    """Reading the file could run code or touch files outside it, and the user did not allow that."""


class DataError(CompressorError):
    """The data or the metric does not fit the model or the task."""


class ExportError(CompressorError):
    """The model cannot be turned into ONNX, or the result does not compute the same."""


class MethodError(CompressorError):
    """A compression method cannot do, or did not do, anything on this model."""


class RuntimeUnavailableError(CompressorError):
    """A runtime is not installed, or cannot load the artifact."""


class MeterError(CompressorError):
    """A meter cannot be read here, or gave no usable reading."""


class MeasurementError(CompressorError):
    """A benchmark cannot go on, for instance because a worker process died."""


class OutputError(CompressorError):
    """The output folder cannot be written, or already holds something else."""


class HistoryError(CompressorError):
    """The history of runs cannot be read or written."""


class RecipeError(CompressorError):
    """A recipe or an option has an unknown key or a value out of range."""


def nearest(given: str, known: Iterable[str]) -> str:
    """Say which known name the user probably meant, and list all of them.

    Args:
        given: The name that was not found.
        known: The names that exist.

    Returns:
        A clause such as ``did you mean 'int8'? known: fp32, int8``.
    """
    names = sorted(known)
    close = difflib.get_close_matches(given.lower(), [n.lower() for n in names], n=1, cutoff=0.5)
    hint = f"did you mean '{next(n for n in names if n.lower() == close[0])}'? " if close else ""
    return f"{hint}known: {', '.join(names) if names else 'none'}"

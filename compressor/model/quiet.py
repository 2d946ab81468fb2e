"""Keeping torch's exporter quiet where what it says is either handled here or no news to the user."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


@contextmanager
def quiet_export() -> Iterator[None]:
    """Silence warnings and log lines of ``torch.export`` and ``torch.jit`` for a while.

    They are: that ``torch.jit.load`` is deprecated (files made with it live on), that an axis of size 1 was taken for
    fixed (it is), that the branch of a constant condition was chosen (it should be), and a full traceback, or the whole
    graph on standard error, before each error that is raised anyway. What can be wrong in the result is checked
    afterwards, not read off warnings.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

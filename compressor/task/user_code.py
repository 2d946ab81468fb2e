"""The user's own Python, named on the command line as ``package.module:callable`` or ``file.py:callable``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from compressor.errors import DataError, nearest
from compressor.model.arch import importable


def is_reference(text: str) -> bool:
    """Whether the text names a callable: something on both sides of its last colon, and an identifier behind it."""
    module, colon, name = text.rpartition(":")
    return bool(module and colon and name.isidentifier())


def load_callable(reference: str) -> Callable[..., Any]:
    """Import the module or run the file, and get the callable from it.

    Args:
        reference: ``package.module:callable`` or ``file.py:callable``. Naming it is what allows it to run.

    Raises:
        DataError: There is no such file, module or callable, or running it failed.
    """
    place, _, name = reference.rpartition(":")
    try:
        # What lies beside the file, or here, can be imported, as with ``python file.py`` and ``python -m module``.
        with importable(Path(place).parent if place.endswith(".py") else Path.cwd()):
            module = _run_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except DataError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(f"importing it raised {type(error).__name__}: {error}", where=place) from error
    if not hasattr(module, name):
        public = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise DataError(f"has no '{name}'", where=place, mend=nearest(name, public))
    found = getattr(module, name)
    if not callable(found):
        raise DataError(f"'{name}' is a {type(found).__name__}, not a callable", where=place)
    return found


def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise DataError("there is no such file", where=path)
    name = f"compressor_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DataError("is not a Python file", where=path)
    module = importlib.util.module_from_spec(spec)
    # Known by its name while it runs: dataclasses look their module up.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

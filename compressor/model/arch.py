"""``--arch``: the callable that builds the module a file's weights belong to. Naming it is permission to run it."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from compressor.errors import ModelError, nearest
from compressor.model.signature import one_line

if TYPE_CHECKING:
    import torch

FORMS = "package.module:callable or file.py:callable"


def build(arch: str) -> torch.nn.Module:
    """Call the callable that ``--arch`` names.

    Args:
        arch: ``package.module:callable`` or ``file.py:callable``.

    Returns:
        What it returned.

    Raises:
        ModelError: It does not exist, raised, or returned something else than a module.
    """
    import torch

    where, separator, name = arch.rpartition(":")
    if not separator or not where or not name:
        raise ModelError(f"--arch '{arch}' is not of the form {FORMS}")
    module = _from_file(arch, Path(where)) if where.endswith(".py") or "/" in where else _from_package(arch, where)
    target: Any = getattr(module, name, None)
    if target is None:
        own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise ModelError(f"'{where}' has no '{name}'", where=f"--arch {arch}", mend=nearest(name, own))
    if isinstance(target, torch.nn.Module) or not callable(target):
        raise ModelError(
            f"'{name}' is a {type(target).__name__}, not a callable that returns a torch.nn.Module",
            where=f"--arch {arch}",
        )
    return _call(arch, target)


def _call(arch: str, target: Callable[[], object]) -> torch.nn.Module:
    import torch

    name = arch.rpartition(":")[2]
    try:
        built = target()
    except Exception as error:  # the user's own code: whatever it raises is the message
        raise ModelError(
            f"calling {name}() raised {one_line(error)}",
            where=f"--arch {arch}",
            mend="name a callable that takes no arguments",
        ) from error
    if not isinstance(built, torch.nn.Module):
        raise ModelError(f"{name}() returned a {type(built).__name__}, not a torch.nn.Module", where=f"--arch {arch}")
    return built


def _from_file(arch: str, path: Path) -> ModuleType:
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        mend = nearest(path.name, beside) if beside else "check the path"
        raise ModelError(f"there is no file '{path}'", where=f"--arch {arch}", mend=mend)
    name = f"compressor_arch_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"'{path}' is not a Python file", where=f"--arch {arch}", mend="its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a class's module up by name.
    sys.modules[name] = module
    try:
        with importable(path.parent):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception):
            raise ModelError(f"running '{path}' raised {one_line(error)}", where=f"--arch {arch}") from error
        raise
    return module


def _from_package(arch: str, name: str) -> ModuleType:
    with importable(Path.cwd()):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = error.name or name
            if name != missing and not name.startswith(f"{missing}."):
                raise ModelError(f"importing '{name}' needs '{missing}'", where=f"--arch {arch}") from error
            parent = sys.modules.get(missing.rpartition(".")[0])
            siblings = [m.name for m in pkgutil.iter_modules(parent.__path__ if parent else [str(Path.cwd())])]
            mend = nearest(missing.rpartition(".")[2], siblings) if siblings else f"write it as {FORMS}"
            raise ModelError(f"there is no module '{missing}'", where=f"--arch {arch}", mend=mend) from error
        except Exception as error:  # the user's own code: whatever it raises is the message
            raise ModelError(f"importing '{name}' raised {one_line(error)}", where=f"--arch {arch}") from error


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let the user's code import what lies beside it, as ``python file.py`` would."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)

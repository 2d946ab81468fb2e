"""The settings of a run, flat: what decides its outcome, recorded with it and compared when it is taken up again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

from compressor.passes.base import FilePass, GraphPass, TorchPass
from compressor.pipeline.job import Job

Plain = str | int | float | bool | None

_OWN = ("model", "methods", "data", "out", "overwrite")
"""Fields of a job that are written in a form of their own, or do not change the outcome."""


def stage_name(index: int, method: str) -> str:
    """The name of the stage of a method, which is its folder too: ``1-int8``."""
    return f"{index + 1}-{method}"


def settings_of(job: Job, passes: Sequence[FilePass | GraphPass | TorchPass]) -> dict[str, Plain]:
    """Every setting, the methods' own and the time stamps of the files included.

    Args:
        job: What is asked for.
        passes: The methods as made of it.
    """
    own = {
        f"{stage_name(index, method.name)}.{field.name}": _plain(getattr(one, field.name))
        for index, (method, one) in enumerate(zip(job.methods, passes, strict=True))
        for field in fields(one)  # type: ignore[arg-type]
    }
    return {
        "model": str(job.model),
        "model_changed": changed_ns(job.model) if job.model.exists() else None,
        "methods": ",".join(one.name for one in job.methods),
        **own,
        "data": job.data,
        "data_changed": _changed(job.data),
        "arch_changed": _changed(job.arch),
        **{field.name: _plain(getattr(job, field.name)) for field in fields(job) if field.name not in _OWN},
        "version": version("compressor"),
    }


def _changed(named: str | None) -> int | None:
    """When the file or folder that an option names was last changed, a ``file.py:callable``'s file included."""
    if not named:
        return None
    path = Path(named) if Path(named).exists() else Path(named.rpartition(":")[0])
    return path.stat().st_mtime_ns if path.name and path.exists() else None


def changed_ns(model: Path) -> int:
    """When a model was last changed; of a folder, the newest of its files."""
    return max(file.stat().st_mtime_ns for file in _files(model))


def size_bytes(model: Path) -> int:
    """Bytes that a model takes; of a folder, its weights."""
    return sum(file.stat().st_size for file in _files(model))


def _files(model: Path) -> list[Path]:
    inside = [file for file in model.iterdir() if file.is_file()] if model.is_dir() else []
    return inside or [model]


def _plain(value: object) -> Plain:
    if isinstance(value, tuple):
        parts = ("x".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in value)
        return ",".join(parts) or None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)

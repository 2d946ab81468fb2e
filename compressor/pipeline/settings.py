"""The settings of a run, flat: what decides its outcome, recorded with it and compared when it is taken up again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

from compressor.passes.base import FilePass, GraphPass, TorchPass
from compressor.pipeline.job import Job
from compressor.task.user_code import is_reference

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
    # A callable's name says nothing of what its file holds.
    code = {
        f"{name}_changed": max(found)
        for name, value in own.items()
        if (found := [when for part in str(value).split(",") if is_reference(part) and (when := _changed(part))])
    }
    return {
        "model": str(job.model),
        "model_changed": changed_ns(job.model) if job.model.exists() else None,
        "methods": ",".join(one.name for one in job.methods),
        **own,
        **code,
        "data": job.data,
        "data_changed": _changed(job.data),
        "arch_changed": _changed(job.arch),
        "metric_changed": _changed(job.metric),
        **{field.name: _plain(getattr(job, field.name)) for field in fields(job) if field.name not in _OWN},
        "version": version("compressor"),
    }


def deciding(settings: Mapping[str, Plain], stage: str) -> dict[str, Plain]:
    """The settings that a stage follows from: of the methods, those up to its own.

    Args:
        settings: From :func:`settings_of`.
        stage: ``export``, ``score``, one from :func:`stage_name`, or ``measure``, which all methods lead to.
    """
    number, _, _ = stage.partition("-")
    methods = str(settings["methods"]).split(",")
    done = int(number) if number.isdecimal() else len(methods) if stage == "measure" else 0
    own = {name: int(found[1]) for name in settings if (found := re.match(r"(\d+)-", name))}
    kept = {name: value for name, value in settings.items() if own.get(name, 0) <= done}
    return {**kept, "methods": ",".join(methods[:done])}


def _changed(named: str | None) -> int | None:
    """When what an option names was last changed: a file, anything in a folder, the file of a ``file.py:callable``."""
    if not named:
        return None
    path = Path(named) if Path(named).exists() else Path(named.rpartition(":")[0])
    if not path.name or not path.exists():
        return None
    return max(each.stat().st_mtime_ns for each in (path, *(path.rglob("*") if path.is_dir() else ())))


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

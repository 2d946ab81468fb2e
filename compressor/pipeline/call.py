"""The main job as one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from compressor.errors import RecipeError, nearest
from compressor.pipeline.job import Job, Method, Outcome
from compressor.pipeline.line import run


def compress(model: str | Path, *, method: str | Method | Sequence[str | Method] = "int8", **options: Any) -> Outcome:
    """Compress a model and measure what that saves: the command line's main job as one call.

    Args:
        model: The model file.
        method: One compression method, or several in order.
        options: Any other field of :class:`Job`, by name.

    Returns:
        The report and the folder that holds it, the compressed model and the baselines.

    Raises:
        CompressorError: Anything in the input that the user can mend; see its subclasses.
    """
    from pydantic import TypeAdapter, ValidationError

    known = {field.name for field in fields(Job)} - {"model", "methods"}
    if unknown := sorted(options.keys() - known):
        mend = nearest(unknown[0], known | {"method"})
        raise RecipeError(f"there is no option {unknown[0]!r}", where="compress()", mend=mend)
    several = [method] if isinstance(method, str | Method) else method
    if isinstance(options.get("data"), Path):
        options["data"] = str(options["data"])
    try:
        methods = [one if isinstance(one, Method) else {"name": one} for one in several]
        job = TypeAdapter(Job).validate_python({"model": model, "methods": methods, **options})
    except TypeError:
        raise RecipeError(f"{method!r} is no method and no list of them", where="compress()") from None
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("model",):
            what = f"{type(model).__name__} is no path of a model file"
            raise RecipeError(what, where="compress()", mend="save it first, e.g. with torch.export.save") from None
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg'][0].lower()}{first['msg'][1:]}"
        raise RecipeError(what, where="compress()") from None
    return run(job)

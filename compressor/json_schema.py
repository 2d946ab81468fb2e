"""JSON Schemas that explain themselves: what a class's docstring says of its attributes, at the keys."""

from __future__ import annotations

import inspect
import re
from typing import Any

_HEADING = "\nAttributes:\n"
_ATTRIBUTE = re.compile(r"^    (?P<name>\w+): (?P<text>.+(?:\n     +.+)*)", re.MULTILINE)
"""An attribute under the heading, its lines after the first indented more."""


def describe(schema: dict[str, Any], kind: type) -> None:
    """Move the attributes' lines from a schema's description to its properties, where an editor shows them.

    Args:
        schema: A schema that pydantic made of ``kind``, changed in place; its properties lose pydantic's titles, which
            only repeat the keys.
        kind: The class; lines on inherited attributes may stand in the classes it comes from.

    Raises:
        KeyError: A property that no docstring describes.
    """
    lines: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        _, _, attributes = inspect.cleandoc(parent.__doc__ or "").partition(_HEADING)
        for found in _ATTRIBUTE.finditer(attributes):
            lines[found["name"]] = " ".join(found["text"].split())
    schema["description"] = inspect.cleandoc(kind.__doc__ or "").partition(_HEADING)[0].strip()
    for name, prop in schema["properties"].items():
        prop.pop("title", None)
        prop["description"] = lines[name]

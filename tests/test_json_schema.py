from __future__ import annotations

from dataclasses import dataclass

import pytest
from pydantic import TypeAdapter

from compressor.json_schema import describe


@dataclass
class Base:
    """What they share.

    Attributes:
        shared: Of the base,
            over two lines.
        told: As the base has it.
    """

    shared: int
    told: int


@dataclass
class Derived(Base):
    """What it is.

    And more on it.

    Attributes:
        own: Seconds.
        told: As the derived one has it.
    """

    own: float


@dataclass
class Untold(Base):
    """Says nothing of what it adds."""

    extra: int


def test_every_property_has_its_line_and_the_whole_its_summary() -> None:
    schema = TypeAdapter(Derived).json_schema()
    describe(schema, Derived)
    assert schema["description"] == "What it is.\n\nAnd more on it."
    assert {name: prop["description"] for name, prop in schema["properties"].items()} == {
        "shared": "Of the base, over two lines.",
        "told": "As the derived one has it.",
        "own": "Seconds.",
    }
    assert "title" not in schema["properties"]["own"]
    assert schema["properties"]["own"]["type"] == "number"


def test_an_attribute_that_no_docstring_tells_of_is_an_error() -> None:
    with pytest.raises(KeyError, match="extra"):
        describe(TypeAdapter(Untold).json_schema(), Untold)

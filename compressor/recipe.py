"""Recipes: a YAML file that says what to do to a model, checked key by key.

``methods`` lists the methods in order, a name (``- int8``) or a name with its settings (``- prune: {flops: 0.5}``);
a method's settings are its dataclass fields. The other keys are the command line's options, and what the command line
gives wins. Ready ones come with the package and go by their names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from compressor.errors import RecipeError, nearest
from compressor.json_schema import describe
from compressor.passes.registry import METHODS, method_class

Plain = str | int | float | bool | list[str] | None

READY = Path(__file__).parent / "recipes"
"""The recipes that come with the package."""

REACHED = ("model", "machine", "command")
"""Keys under ``reached`` that every ready recipe has, beside its figures; ``model`` names the data too."""


class Recipe(BaseModel):
    """What a recipe file holds.

    Attributes:
        about: What it is for.
        reached: The figures it reached, on which model, data and machine, and the command that repeats them, each under
            a name of its own; for people.
        methods: Method names in order, each with its settings.
        data: As ``--data``.
        metric: As ``--metric``.
        target: As ``--target``.
        max_loss: As ``--max-loss``.
        seed: As ``--seed``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str = ""
    reached: dict[str, str] = Field(default_factory=dict)
    methods: Annotated[list[str | dict[str, dict[str, Plain]]], Field(min_length=1)]
    data: str | None = None
    metric: str | None = None
    target: str | None = None
    max_loss: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None

    @field_validator("methods", mode="before")
    @classmethod
    def _one_name_each(cls, methods: Any) -> Any:
        if not isinstance(methods, list):
            raise ValueError("is no list; write '- NAME' for each method, one below the other")
        for entry in methods:
            settled = isinstance(entry, Mapping) and [isinstance(held, Mapping) for held in entry.values()] == [True]
            if not isinstance(entry, str) and not settled:
                raise ValueError("each entry is one method: a name ('- int8'), or a name with its settings")
        return methods

    def steps(self) -> list[tuple[str, dict[str, Plain]]]:
        """The methods as ``(name, settings)``."""
        return [(one, {}) if isinstance(one, str) else next(iter(one.items())) for one in self.methods]

    def options(self) -> dict[str, Any]:
        """The options that the recipe gives, by their names in Python."""
        names = ("data", "metric", "target", "max_loss", "seed")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Args:
        path: A YAML file, or the name of a ready recipe.

    Returns:
        The recipe.

    Raises:
        RecipeError: It is missing, no YAML, has an unknown key or setting (the nearest known one is named) or a wrong
            value.
    """
    if path.parent == Path() and not path.suffix and not path.exists():
        if str(path) not in (known := ready_recipes()):
            raise RecipeError("no such file or ready recipe", where=path, mend=nearest(str(path), known))
        path = known[str(path)]
    try:
        held = yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except FileNotFoundError:
        raise RecipeError("no such file; check the path", where=path) from None
    except UnicodeDecodeError as error:
        raise RecipeError("is not UTF-8 text, so not a recipe", where=path) from error
    except OSError as error:
        raise RecipeError(f"cannot be read ({error.strerror})", where=path) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"is not YAML{place}: {getattr(error, 'problem', error)}", where=path) from error
    if not isinstance(held, dict):
        raise RecipeError("holds no keys", where=path, mend="a recipe begins with 'methods:'")
    if unknown := sorted(str(key) for key in held.keys() - set(Recipe.model_fields)):
        raise RecipeError(
            f"has an unknown key '{unknown[0]}'", where=path, mend=nearest(unknown[0], Recipe.model_fields)
        )
    try:
        recipe = Recipe.model_validate(held)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in Recipe.model_fields)
        raise RecipeError(f"{key}: {first['msg'].removeprefix('Value error, ')}", where=path) from error
    for name, settings in recipe.steps():
        if name not in METHODS:
            raise RecipeError(f"no method '{name}'", where=path, mend=nearest(name, METHODS))
        _check_settings(name, settings, path)
    return recipe


class _Strict(yaml.SafeLoader):
    """Plain YAML, in which a key that stands twice is a mistake: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def ready_recipes() -> dict[str, Path]:
    """Name of each recipe that comes with the package, and its file."""
    return {path.stem: path for path in sorted(READY.glob("*.yaml"), key=lambda path: path.stem)}


def keeping(
    steps: Sequence[tuple[str, Mapping[str, Any]]], patterns: Sequence[str]
) -> list[tuple[str, dict[str, Any]]]:
    """Let methods leave some layers alone, before all rules of their own.

    Args:
        steps: Methods and their settings.
        patterns: Of the names of the layers, as in :mod:`compressor.rules`.

    Returns:
        The same methods; those that have no rules (they train the whole model) are as they were.

    Raises:
        RecipeError: None of them has rules.
    """
    rules = tuple(f"exclude {pattern}" for pattern in patterns)
    ruled = {name for name, _ in steps if "rules" in {field.name for field in fields(method_class(name))}}
    if not ruled:
        raise RecipeError(f"cannot be kept by {', '.join(name for name, _ in steps)}", where=f"--keep {patterns[0]}")
    return [
        (name, {**settings, "rules": (*rules, *settings.get("rules", ()))} if name in ruled else dict(settings))
        for name, settings in steps
    ]


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file, every method's settings included, for editors that check as one types."""
    schema = Recipe.model_json_schema()
    describe(schema, Recipe)
    settings = {}
    for name in METHODS:
        found = TypeAdapter(method_class(name)).json_schema()
        describe(found, method_class(name))
        found.pop("$defs", None)
        settings[name] = {**found, "additionalProperties": False}
    schema["properties"]["methods"]["items"] = {
        "anyOf": [
            {"enum": sorted(METHODS)},
            {
                "type": "object",
                "properties": settings,
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
        ]
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _check_settings(name: str, settings: Mapping[str, Plain], path: Path) -> None:
    """Refuse settings that a method does not have, and values of the wrong type."""
    kind = method_class(name)
    known = [field.name for field in fields(kind)]
    if unknown := sorted(settings.keys() - set(known)):
        raise RecipeError(f"{name} has no setting '{unknown[0]}'", where=path, mend=nearest(unknown[0], known))
    try:
        TypeAdapter(kind).validate_python(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"{name}.{first['loc'][0]}: {first['msg']}", where=path) from error


def main() -> None:
    """Write the published JSON Schema anew: ``python -m compressor.recipe``."""
    from compressor.store.runfolder import write_beside

    target = Path(__file__).parent / "schemas" / "recipe.schema.json"
    write_beside(target, json.dumps(recipe_schema(), indent=2) + "\n")


if __name__ == "__main__":
    main()

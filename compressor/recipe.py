"""Recipes: a YAML file that says what to do to a model, checked key by key.

``methods`` lists the methods in order, a name (``- int8``) or a name with its settings (``- prune: {flops: 0.5}``);
a method's settings are its dataclass fields. The other keys are the command line's options, and what the command line
gives wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from compressor.errors import RecipeError, nearest
from compressor.passes.registry import METHODS

Plain = str | int | float | bool | list[str] | None


class Recipe(BaseModel):
    """What a recipe file holds.

    Attributes:
        about: What it is for.
        reached: The figures it reached, on what data and machine, and the command that reproduces them; for people.
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
    max_loss: Annotated[float, Field(ge=0)] | None = None
    seed: int | None = None

    @field_validator("methods")
    @classmethod
    def _one_name_each(cls, methods: list[Any]) -> list[Any]:
        for entry in methods:
            if isinstance(entry, Mapping) and len(entry) != 1:
                raise ValueError("each entry is one method: a name, or a name with its settings")
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
        path: A YAML file.

    Returns:
        The recipe.

    Raises:
        RecipeError: It is missing, no YAML, has an unknown key (the nearest known one is named) or a wrong value.
    """
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError("no such file; check the path", where=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot be read ({error})", where=path) from error
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
    for name, _ in recipe.steps():
        if name not in METHODS:
            raise RecipeError(f"no method '{name}'", where=path, mend=nearest(name, METHODS))
    return recipe


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file, for editors that check as one types."""
    return Recipe.model_json_schema()

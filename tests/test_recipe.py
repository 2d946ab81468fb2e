"""Recipes: read strictly, every mistake named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compressor.errors import RecipeError
from compressor.recipe import load_recipe, recipe_schema

ROOT = Path(__file__).parents[1]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_methods_with_and_without_settings(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "methods:\n  - int8: {mode: static}\n  - int8\nmax_loss: 0.02\n"))
    assert recipe.steps() == [("int8", {"mode": "static"}), ("int8", {})]
    assert recipe.options() == {"max_loss": 0.02}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metods: [int8]\n", "has an unknown key 'metods'; did you mean 'methods'? known: "),
        ("methods: [int88]\n", "no method 'int88'; did you mean 'int8'? known: "),
        ("methods: []\n", "methods: List should have at least 1 item after validation, not 0"),
        ("methods: [int8]\nmax_loss: -1\n", "max_loss: Input should be greater than or equal to 0"),
        ("methods: [int8]\nseed: many\n", "seed: Input should be a valid integer"),
        (
            "methods:\n  - {int8: {}, prune: {}}\n",
            "methods: each entry is one method: a name, or a name with its settings",
        ),
        ("methods: [int8\n", "is not YAML, line 2: "),
        ("just text\n", "holds no keys; a recipe begins with 'methods:'"),
        ("methods: !!python/object/apply:os.system [id]\n", "is not YAML, line 1: could not determine a constructor"),
    ],
)
def test_mistake_is_named_with_its_mend(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_missing_file() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(Path("nowhere.yaml"))
    assert str(caught.value) == "nowhere.yaml: no such file; check the path"


def test_published_schema_is_current() -> None:
    published = json.loads((ROOT / "compressor" / "schemas" / "recipe.schema.json").read_text())
    assert published == recipe_schema(), "write it anew with `make schema`"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_ready_recipes_load_and_say_what_they_reached(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.about
    assert {"model", "machine", "command"} <= recipe.reached.keys()


def test_there_are_ready_recipes() -> None:
    assert list((ROOT / "recipes").glob("*.yaml"))

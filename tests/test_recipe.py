"""Recipes: read strictly, every mistake named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from compressor.cli import cli
from compressor.errors import MethodError, RecipeError
from compressor.passes.registry import method_names
from compressor.recipe import REACHED, keeping, load_recipe, ready_recipes, recipe_schema

ROOT = Path(__file__).parents[1]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_methods_with_and_without_settings(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "methods:\n  - int8: {rules: [exclude head]}\n  - int8\nmax_loss: 0.02\n"))
    assert recipe.steps() == [("int8", {"rules": ["exclude head"]}), ("int8", {})]
    assert recipe.options() == {"max_loss": 0.02}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metods: [int8]\n", "has an unknown key 'metods'; did you mean 'methods'? known: "),
        ("methods: [int88]\n", "no method 'int88'; did you mean 'int8'? known: "),
        ("methods: []\n", "methods: List should have at least 1 item after validation, not 0"),
        ("methods: [int8]\nmax_loss: -1\n", "max_loss: Input should be greater than or equal to 0"),
        ("methods: [int8]\nseed: many\n", "seed: Input should be a valid integer"),
        ("methods: [int8]\nseed: -1\n", "seed: Input should be greater than or equal to 0"),
        ("methods: [int8]\nmax_loss: .inf\n", "max_loss: Input should be a finite number"),
        ("methods: [int8]\nseed: 1\nmethods: [fp16]\n", "is not YAML, line 3: 'methods' stands twice"),
        ("methods: int8\n", "methods: is no list; write '- NAME' for each method, one below the other"),
        ("methods:\n  - int8:\n", "methods: each entry is one method: a name ('- int8'), or a name with its settings"),
        (
            "methods:\n  - {int8: {}, prune: {}}\n",
            "methods: each entry is one method: a name ('- int8'), or a name with its settings",
        ),
        ("methods: [int8\n", "is not YAML, line 2: "),
        ("methods: [prune: {flop: 0.5}]\n", "prune has no setting 'flop'; did you mean 'flops'? known: "),
        ("methods: [prune: {flops: half}]\n", "prune.flops: Input should be a valid number"),
        ("methods: [int8: {rules: exclude head}]\n", "int8.rules: Input should be a valid tuple"),
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


def test_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    for place, what in ((path, "is not UTF-8 text, so not a recipe"), (tmp_path, "cannot be read (Is a directory)")):
        with pytest.raises(RecipeError) as caught:
            load_recipe(place)
        assert str(caught.value) == f"{place}: {what}"


def test_name_of_no_ready_recipe() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(Path("cnn-int9"))
    known = ", ".join(ready_recipes())
    assert str(caught.value) == f"cnn-int9: no such file or ready recipe; did you mean 'cnn-int8'? known: {known}"


def test_settings_out_of_range_are_told_as_the_method_does(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=r"^prune: flops is 2\.0, not a share above 0 and below 1$"):
        load_recipe(write(tmp_path, "methods: [prune: {flops: 2}]\n"))


def test_layers_to_keep_go_before_the_rules_of_every_method() -> None:
    steps = [("prune", {"flops": 0.5, "rules": ["include conv*"]}), ("distill", {}), ("int8", {})]
    assert keeping(steps, ("head*", "stem conv2d")) == [
        ("prune", {"flops": 0.5, "rules": ("exclude head*", "exclude stem conv2d", "include conv*")}),
        ("distill", {}),
        ("int8", {"rules": ("exclude head*", "exclude stem conv2d")}),
    ]
    with pytest.raises(RecipeError) as caught:
        keeping([("distill", {})], ("head",))
    assert str(caught.value) == "--keep head: cannot be kept by distill"


def test_published_schema_is_current() -> None:
    published = json.loads((ROOT / "compressor" / "schemas" / "recipe.schema.json").read_text())
    assert published == recipe_schema(), "write it anew with `make schema`"


def test_schema_knows_every_methods_settings() -> None:
    bare, settled = recipe_schema()["properties"]["methods"]["items"]["anyOf"]
    assert set(bare["enum"]) == set(settled["properties"]) == set(method_names())
    assert set(settled["properties"]["int4"]["properties"]) == {"block_size", "rules"}


@pytest.mark.parametrize("name", ready_recipes())
def test_ready_recipes_load_by_name_and_say_what_they_reached(name: str) -> None:
    recipe = load_recipe(Path(name))
    assert recipe.about
    assert set(REACHED) < recipe.reached.keys(), "the figures, beside where they come from"


def test_list_of_ready_recipes() -> None:
    listed = CliRunner().invoke(cli, ["recipes"], catch_exceptions=False).output
    assert "cnn-int8  int8\n" in listed
    assert "compress model.pt --recipe NAME" in listed
    assert max(len(line) for line in listed.splitlines()[:-1]) <= 80
    held = json.loads(CliRunner().invoke(cli, ["recipes", "--json"], catch_exceptions=False).output)
    assert list(held) == list(ready_recipes())
    assert held["cnn-int8"]["methods"] == ["int8"]


def test_schema_describes_every_key_and_every_setting_in_its_own_place() -> None:
    schema = recipe_schema()
    settings = schema["properties"]["methods"]["items"]["anyOf"][1]["properties"]
    for name, part in (("recipe", schema), *settings.items()):
        assert "Attributes:" not in part["description"], name
        for key, prop in part["properties"].items():
            assert prop["description"].endswith("."), (name, key)
    block_size = settings["int8-weight-only"]["properties"]["block_size"]["description"]
    assert block_size == settings["int4"]["properties"]["block_size"]["description"]  # both have it from one place
    assert block_size.startswith("Weights per scale: 16, 32")
    assert settings["distill"]["properties"]["student"]["description"].endswith("a model of your own.")

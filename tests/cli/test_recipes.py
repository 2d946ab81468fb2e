from __future__ import annotations

import json

from click.testing import CliRunner

from compressor.cli.recipes import recipes
from compressor.recipe import READY, ready_recipes


def test_the_list_names_every_recipe_its_methods_and_where_the_files_are() -> None:
    shown = CliRunner().invoke(recipes, []).output
    lines = shown.splitlines()
    for name in ready_recipes():
        assert any(line.split()[:1] == [name] for line in lines)
    assert any(line.split() == ["cnn", "prune", "→", "distill", "→", "int8"] for line in lines)
    assert str(READY) in lines[-1]


def test_json_holds_what_the_files_hold() -> None:
    found = json.loads(CliRunner().invoke(recipes, ["--json"]).output)
    assert list(found) == list(ready_recipes())
    assert found["cnn-int8"]["methods"] == ["int8"]
    assert "data" not in found["cnn-int8"]

"""``compress recipes``."""

from __future__ import annotations

import click

from compressor.cli.options import print_json


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def recipes(as_json: bool) -> None:
    """List the ready recipes: what each does, and what it reached."""
    from pathlib import Path

    from compressor.recipe import READY, load_recipe, ready_recipes

    found = {name: load_recipe(Path(name)) for name in ready_recipes()}
    if as_json:
        print_json({name: recipe.model_dump(exclude_unset=True) for name, recipe in found.items()})
        return
    from rich.markup import escape
    from rich.padding import Padding

    from compressor.console import console

    out = console()
    for name, recipe in found.items():
        out.print(f"[bold]{escape(name)}[/]  {escape(' → '.join(method for method, _ in recipe.steps()))}")
        out.print(Padding(escape(recipe.about), (0, 0, 0, 2)))
        for key, value in recipe.reached.items():
            out.print(Padding(escape(f"{key}: {value}"), (0, 0, 0, 2)), style="dim")
        out.print()
    out.print("Use one:  compress model.pt --recipe NAME --data DATA")
    out.print("Each is a YAML file, to start your own from:")
    out.print(Padding(escape(str(READY)), (0, 0, 0, 2)), soft_wrap=True)

"""``compress inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compressor.cli.options import print_json, reading

if TYPE_CHECKING:
    from rich.console import Console

    from compressor.inspection import Inspection
    from compressor.passes.preview import Preview

SHOWN_LAYERS = 40
"""Layers in the table; the rest is counted, and in ``--json``."""

SHOWN_NAMES = 4
"""Names per line of what a method would do."""

SHOWN_REASONS = 12
"""Lines per method."""


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@reading
@click.option("--all", "everything", is_flag=True, help="Show every layer, and every name.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def inspect(model: Path, everything: bool, as_json: bool, **options: Any) -> None:
    """Show a model's layers, and what each method would touch.

    What the file holds, what its layers cost, and what each method would leave, and why. The names of the layers are
    those that rules and --keep go by.
    """
    from compressor.inspection import inspect_model

    found = inspect_model(model, **options)
    if as_json:
        import dataclasses

        print_json(
            {
                **dataclasses.asdict(found.description),
                "flops": found.flops,
                "graph": [dataclasses.asdict(layer) for layer in found.layers],
                "methods": {one.method: dataclasses.asdict(one) for one in found.previews},
                "notes": found.notes,
            }
        )
        return
    _print(found, None if everything else SHOWN_LAYERS)


def _print(found: Inspection, most: int | None) -> None:
    from dataclasses import replace

    from rich.markup import escape

    from compressor.console import console, print_description
    from compressor.report.text import clean

    print_description(found.description if not found.layers else replace(found.description, layers=()))
    out = console()
    if found.layers:
        out.print(f"FLOPs       {_flops(found.flops)} for one example, in convolutions, products and recurrences")
        _print_layers(out, found, most)
    for preview in found.previews:
        _print_preview(out, preview, most)
    for note in found.notes:
        out.print(f"\n! {escape(clean(note, 400))}")


def _print_layers(out: Console, found: Inspection, most: int | None) -> None:
    from rich.markup import escape
    from rich.table import Table

    from compressor.report.text import clean

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("layer", overflow="fold")
    for head in ("operator", "weight"):
        table.add_column(head, no_wrap=True)
    for head in ("parameters", "FLOPs"):
        table.add_column(head, justify="right", no_wrap=True)
    for layer in found.layers[:most]:
        shape = "x".join(map(str, layer.shape))
        table.add_row(
            escape(clean(layer.name, 60)), escape(layer.op), shape, f"{layer.parameters:,}", _flops(layer.flops)
        )
    out.print()
    out.print(table)
    if most is not None and len(found.layers) > most:
        out.print(f"… and {len(found.layers) - most} more layers: --all shows them, --json holds them")


def _print_preview(out: Console, preview: Preview, most: int | None) -> None:
    from rich.markup import escape
    from rich.padding import Padding

    out.print(f"\n[bold]{preview.method}[/]", highlight=False)
    if preview.refused:
        out.print(Padding(escape(f"nothing: {preview.refused}"), (0, 0, 0, 2)))
        return
    for mark, layers in (("+", preview.touched), ("-", preview.left)):
        gathered = _gathered(layers)
        for why, names in list(gathered.items())[: None if most is None else SHOWN_REASONS]:
            shown = names if most is None else names[:SHOWN_NAMES]
            more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
            count = f"{len(names)} layer{'s' * (len(names) > 1)}"
            out.print(Padding(escape(f"{mark} {count}, {why}: {', '.join(shown)}{more}"), (0, 0, 0, 2)))
        if most is not None and len(gathered) > SHOWN_REASONS:
            out.print(f"  … and {len(gathered) - SHOWN_REASONS} more lines: --all shows them")


def _gathered(layers: Any) -> dict[str, list[str]]:
    """What is done, or why not, to the layers that it holds for."""
    found: dict[str, list[str]] = {}
    for name, why in layers.items():
        found.setdefault(why, []).append(name)
    return found


def _flops(count: int | None) -> str:
    if count is None:
        return "–"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)

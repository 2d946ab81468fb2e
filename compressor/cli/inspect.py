"""``compress inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from compressor.cli.options import print_json, reading


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@reading
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def inspect(model: Path, as_json: bool, **options: Any) -> None:
    """Say what a model file is and holds, without running it."""
    from compressor.model.describe import describe

    description = describe(model, **options)
    if as_json:
        import dataclasses

        print_json(dataclasses.asdict(description))
        return
    from compressor.console import print_description

    print_description(description)

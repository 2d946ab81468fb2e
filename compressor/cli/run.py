"""``compress MODEL`` and ``compress demo``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from compressor.cli.history import keep as keep_record
from compressor.cli.history import prepare, recording
from compressor.cli.options import (
    INTERRUPTED,
    RUNTIMES,
    command_line,
    judging,
    measuring,
    metering,
    names,
    on_device,
    reading,
    taking_up,
)
from compressor.errors import RecipeError
from compressor.passes.registry import METHODS


@click.command("run", hidden=True)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME",
    help=f"Compression method; several are applied in order: {', '.join(METHODS)}.  [default: int8]",
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    metavar="NAME|FILE",
    help="Methods, their settings and other options: a ready recipe (see 'recipes') or a YAML file.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="PATTERN",
    help="Layers to leave as they are, e.g. 'head*', by every method but distill and qat; may be repeated. 'inspect' "
    "lists the names.",
)
@click.option(
    "--by-rule",
    is_flag=True,
    help="int8 by the architecture alone, for a target that is not here, instead of by what pays on this processor.",
)
@judging
@reading
@measuring
@click.option(
    "--runtime",
    "runtimes",
    callback=names,
    metavar="NAME,...",
    help=f"Runtimes to compare, of {RUNTIMES}; the report names the cheapest.  [default: the usual one of each format]",
)
@on_device
@metering
@click.option("--seed", type=int, default=0, metavar="N", show_default=True, help="Of everything random.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.  [default: compressed/MODEL-METHOD]"
)
@click.option("--overwrite", is_flag=True, help="Start over, and replace what is in the folder.")
@recording
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON and nothing else.")
@click.pass_context
def run_command(
    ctx: click.Context,
    /,
    as_json: bool,
    preset: str | None,
    recipe: Path | None,
    keep: tuple[str, ...],
    by_rule: bool,
    **options: Any,
) -> None:
    """Compress MODEL, measure it against the original and write a report."""
    from compressor.pipeline import Job, Method

    recorded = {name: options.pop(name) for name in ("history_file", "mlflow")}
    methods = options["methods"]
    steps: list[tuple[str, Any]] = [(name, {}) for name in methods or ("int8",)]
    if recipe is not None:
        from compressor.recipe import load_recipe

        held = load_recipe(recipe)
        if methods:
            raise RecipeError(
                f"cannot be given with --recipe, which names {', '.join(name for name, _ in held.steps())}",
                where="--method",
                mend="leave one of them out, or change the methods in a copy of the recipe",
            )
        steps = held.steps()
        given = click.core.ParameterSource.COMMANDLINE
        options |= {k: v for k, v in held.options().items() if ctx.get_parameter_source(k) is not given}
    if by_rule and "int8" not in dict(steps):
        raise RecipeError(f"is about int8, not {', '.join(name for name, _ in steps)}", where="--by-rule")
    if by_rule:
        steps = [(name, {**settings, "by_rule": True} if name == "int8" else settings) for name, settings in steps]
    if keep:
        from compressor.recipe import keeping

        steps = keeping(steps, keep)
    options["methods"] = tuple(Method(name, settings) for name, settings in steps)
    _run(Job(preset=preset or "default", **options), as_json, command_line(), **recorded)


@click.command()
@measuring
@metering
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    default=Path("compressed/demo-int8"),
    show_default=True,
    help="Folder to write.",
)
@recording
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON and nothing else.")
def demo(as_json: bool, preset: str | None, **options: Any) -> None:
    """Compress the ResNet that the package carries, offline.

    It was trained on Fashion-MNIST; 2 000 of the 10 000 official test pictures come with it.
    """
    from importlib import resources

    from compressor.pipeline import Job

    kept = {name: options.pop(name) for name in ("history_file", "mlflow")}
    with resources.as_file(resources.files("compressor.demo") / "resnet8.pt2") as model:
        job = Job(model=model, data="demo", preset=preset or "quick", overwrite=True, **options)
        _run(job, as_json, command_line(), **kept)


def _run(job: Any, as_json: bool, command: str, history_file: str | None, mlflow: str | None) -> None:
    from compressor.console import Bars, print_outcome
    from compressor.pipeline import run

    prepare(mlflow)
    with taking_up(overwrite=job.overwrite), Bars(quiet=as_json or not sys.stderr.isatty()) as bars:
        outcome = run(job, bars, command)
    if as_json:
        click.echo((outcome.folder / "report.json").read_text(encoding="utf-8"), nl=False)
    else:
        print_outcome(outcome)
    keep_record(outcome.report, outcome.folder, history_file, mlflow, quiet=as_json)
    if outcome.interrupted:
        sys.exit(INTERRUPTED)

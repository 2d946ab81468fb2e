"""The command line: parse, call one function, print. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from compressor.errors import CompressorError, nearest

RUN = "run"
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells expect."""


class _Main(click.Group):
    """A group whose unnamed command is the main job: ``compress model.pt`` needs no verb."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        if args and args[0] not in self.commands and args[0] not in own:
            args = [RUN, *args]
        return super().parse_args(ctx, args or ["--help"])

    def list_commands(self, ctx: click.Context) -> list[str]:
        return _commands()

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] MODEL")
        formatter.write_usage(ctx.command_path, "COMMAND [ARGS]...", prefix=" " * 7)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.commands[RUN].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def _shapes(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[int, ...], ...] | None:
    """Parse ``--input-shape 1x28x28``, once per input."""
    shapes = []
    for text in values:
        parts = text.lower().replace("×", "x").split("x")
        if not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise click.BadParameter(f"{text!r} is not a shape such as 1x28x28 (without the batch axis)")
        shapes.append(tuple(int(part) for part in parts))
    return tuple(shapes) or None


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_reading = _options(
    click.option(
        "--arch",
        metavar="REF",
        help="What builds the module of a state dict or safetensors file: package.module:callable or file.py:callable.",
    ),
    click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        callback=_shapes,
        metavar="1x28x28",
        help="Shape of each input without the batch axis, where neither the file nor the data tell.",
    ),
    click.option("--allow-pickle", is_flag=True, help="Load a pickled module, which runs whatever code it holds."),
)

_measuring = _options(
    click.option("--quick", "preset", flag_value="quick", help="Measure for about 1 min instead of about 3."),
    click.option("--certify", "preset", flag_value="certify", help="Measure in windows of 10 s, 10 blocks."),
    click.option("--batch", type=int, metavar="N", help="Examples per call.  [default: 1]"),
    click.option("--threads", type=int, default=1, metavar="N", show_default=True, help="Threads of the runtime."),
    click.option(
        "--meter",
        "meters",
        multiple=True,
        metavar="NAME",
        help="Meter to read, e.g. rapl; may be repeated.  [default: every measuring one that can be read, else the "
        "estimate cpu-time]",
    ),
    click.option("--watts-per-core", type=float, metavar="W", help="For estimates by cpu-time."),
)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="compressor", prog_name="compressor")
def cli() -> None:
    """Compress a trained PyTorch model and prove what it saves.

    Loads MODEL, compresses it, exports it to ONNX, runs the old and the new side by side under energy meters, and
    writes a report: the accuracy kept, the joules per inference, how sure that is, and when the compression has paid
    for itself.
    """


@cli.command(RUN, hidden=True)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--method", "methods", multiple=True, metavar="NAME", default=("int8",), help="Compression method.  [default: int8]"
)
@click.option(
    "--data",
    metavar="DATA",
    help="Labelled data: .npz, .npy, .csv, a folder of pictures by class, fashion-mnist, or package.module:callable. "
    "Without them, agreement with the original on synthetic inputs is measured instead of accuracy.",
)
@click.option(
    "--metric", metavar="NAME", help="accuracy, f1, mse, r2, … or package.module:callable.  [default: by the data]"
)
@click.option("--target", metavar="COLUMN", help="Column of a CSV that holds the target.")
@click.option(
    "--max-loss",
    type=float,
    default=0.01,
    metavar="X",
    show_default=True,
    help="Score that may be lost; 0.01 is one point.",
)
@_reading
@_measuring
@click.option("--seed", type=int, default=0, metavar="N", show_default=True, help="Of everything random.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.  [default: compressed/MODEL-METHOD]"
)
@click.option("--overwrite", is_flag=True, help="Start over, and replace what is in the folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON and nothing else.")
def run_command(as_json: bool, preset: str | None, **options: Any) -> None:
    """Compress MODEL, measure it against the original and write a report."""
    from compressor.pipeline import Job, Method

    model = options["model"]
    options["methods"] = tuple(Method(name) for name in options["methods"])
    if not model.exists() and model.parent == Path() and not model.suffix:
        # A misspelt command looks like a model's name.
        raise CompressorError("no such file or command", where=model, mend=nearest(model.name, _commands()))
    _run(Job(preset=preset or "default", **options), as_json, _command_line())


def _commands() -> list[str]:
    return [name for name in cli.commands if name != RUN]


@cli.command()
@_measuring
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    default=Path("compressed/demo-int8"),
    show_default=True,
    help="Folder to write.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON and nothing else.")
def demo(as_json: bool, preset: str | None, **options: Any) -> None:
    """Compress the ResNet that the package carries, offline.

    It was trained on Fashion-MNIST; 2 000 of the 10 000 official test pictures come with it.
    """
    from importlib import resources

    from compressor.pipeline import Job

    with resources.as_file(resources.files("compressor.demo") / "resnet8.pt2") as model:
        job = Job(model=model, data="demo", preset=preset or "quick", overwrite=True, **options)
        _run(job, as_json, _command_line())


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@_reading
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def inspect(model: Path, as_json: bool, **options: Any) -> None:
    """Say what a model file is and holds, without running it."""
    from compressor.model.describe import describe

    description = describe(model, **options)
    if as_json:
        import dataclasses

        _print_json(dataclasses.asdict(description))
        return
    from compressor.console import print_description

    print_description(description)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def meters(as_json: bool) -> None:
    """List the energy meters: readable here or not, why not, and how to mend it."""
    from compressor.meters.registry import statuses

    found = statuses()
    if as_json:
        import dataclasses

        _print_json([dataclasses.asdict(status) for status in found])
        return
    from compressor.console import print_meters

    print_meters(found)


def _run(job: Any, as_json: bool, command: str) -> None:
    from compressor.console import Bars, print_outcome
    from compressor.pipeline import run

    with Bars(quiet=as_json or not sys.stderr.isatty()) as bars:
        outcome = run(job, bars, command)
    if as_json:
        click.echo((outcome.folder / "report.json").read_text(encoding="utf-8"), nl=False)
    else:
        print_outcome(outcome)
    if outcome.interrupted:
        sys.exit(INTERRUPTED)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


def _command_line() -> str:
    return shlex.join(["compress", *sys.argv[1:]])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _usage_message(error: click.UsageError) -> str:
    """Click's message, with the nearest known name where a name was misspelt."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        known = [name for parameter in error.ctx.command.params for name in parameter.opts]
        return f"there is no option {error.option_name}; {nearest(error.option_name, known)}"
    return _one_line(error.format_message())


def main() -> None:
    """Run the command line and exit: 0 done, 1 a check asked for failed, 2 bad input, 130 interrupted."""
    try:
        cli(standalone_mode=False)
        code = 0
    except CompressorError as error:
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    except click.UsageError as error:
        click.echo(f"error: {_usage_message(error)}", err=True)
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: finished stages are kept; the same command goes on from there", err=True)
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)

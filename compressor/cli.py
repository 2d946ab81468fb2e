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


def _names(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Parse ``onnxruntime,torch``."""
    return tuple(part.strip() for part in text.split(",")) if text else ()


def _counts(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Parse ``1,8,32``; each number once, in the order given."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if wrong := [part for part in parts if not part.isdecimal()]:
        raise click.BadParameter(f"{wrong[0]!r} is not a number; give one or several such as 1,8,32")
    return tuple(dict.fromkeys(int(part) for part in parts))


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

_metering = _options(
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

_judging = _options(
    click.option(
        "--data",
        metavar="DATA",
        help="Labelled data: .npz, .npy, .csv, a folder of pictures by class, fashion-mnist, or "
        "package.module:callable. Without them inputs are drawn at random, and accuracy is not measured.",
    ),
    click.option(
        "--metric", metavar="NAME", help="accuracy, f1, mse, r2, … or package.module:callable.  [default: by the data]"
    ),
    click.option("--target", metavar="COLUMN", help="Column of a CSV that holds the target."),
    click.option(
        "--max-loss",
        type=float,
        default=0.01,
        metavar="X",
        show_default=True,
        help="Score that may be lost; 0.01 is one point.",
    ),
)

_measuring = _options(
    click.option("--quick", "preset", flag_value="quick", help="Measure for about 1 min instead of about 3."),
    click.option("--certify", "preset", flag_value="certify", help="Measure in windows of 10 s, 12 blocks."),
    click.option("--batch", type=int, metavar="N", help="Examples per call.  [default: 1]"),
    click.option("--threads", type=int, default=1, metavar="N", show_default=True, help="Threads of the runtime."),
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
    "--method",
    "methods",
    multiple=True,
    metavar="NAME",
    help="Compression method; several are applied in order.  [default: int8]",
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="YAML file with methods, their settings and other options.",
)
@click.option(
    "--by-rule",
    is_flag=True,
    help="int8 by the architecture alone, for a target that is not here, instead of by what pays on this processor.",
)
@_judging
@_reading
@_measuring
@_metering
@click.option("--seed", type=int, default=0, metavar="N", show_default=True, help="Of everything random.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.  [default: compressed/MODEL-METHOD]"
)
@click.option("--overwrite", is_flag=True, help="Start over, and replace what is in the folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON and nothing else.")
@click.pass_context
def run_command(
    ctx: click.Context, /, as_json: bool, preset: str | None, recipe: Path | None, by_rule: bool, **options: Any
) -> None:
    """Compress MODEL, measure it against the original and write a report."""
    from compressor.pipeline import Job, Method

    model, names = options["model"], options["methods"]
    steps: list[tuple[str, Any]] = [(name, {}) for name in names or ("int8",)]
    if recipe is not None:
        from compressor.recipe import load_recipe

        held = load_recipe(recipe)
        steps = steps if names else held.steps()
        given = click.core.ParameterSource.COMMANDLINE
        options |= {k: v for k, v in held.options().items() if ctx.get_parameter_source(k) is not given}
    if by_rule:
        steps = [(name, {**settings, "by_rule": True} if name == "int8" else settings) for name, settings in steps]
    options["methods"] = tuple(Method(name, settings) for name, settings in steps)
    if not model.exists() and model.parent == Path() and not model.suffix:
        # A misspelt command looks like a model's name.
        raise CompressorError("no such file or command", where=model, mend=nearest(model.name, _commands()))
    _run(Job(preset=preset or "default", **options), as_json, _command_line())


def _commands() -> list[str]:
    return [name for name in cli.commands if name != RUN]


@cli.command()
@_measuring
@_metering
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
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="A B...")
@click.option(
    "--runtime",
    "runtimes",
    callback=_names,
    metavar="NAME,...",
    help="onnxruntime or torch: one for all files, or one per file.  [default: by the file's format]",
)
@click.option("--batch", "batches", callback=_counts, metavar="N,...", help="Examples per call.  [default: 1]")
@click.option("--threads", callback=_counts, default="1", metavar="N,...", show_default=True, help="Of the runtime.")
@click.option("--quick", "preset", flag_value="quick", help="Measure for about 1 min per run instead of about 3.")
@click.option("--certify", "preset", flag_value="certify", help="Measure in windows of 10 s, 12 blocks.")
@_metering
@_judging
@click.option("--seed", type=int, default=0, metavar="N", show_default=True, help="Of everything random.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Keep the measurement, for 'compress compare'.  [default: print only]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON and nothing else.")
def bench(as_json: bool, out: Path | None, preset: str | None, **options: Any) -> None:
    """Measure .onnx and .pt2 files side by side; the first is the baseline.

    A second worker on the first file (the A/A control) says how small a difference can be seen.
    """
    from compressor.bench import BenchJob, run_bench
    from compressor.console import Bars, print_bench
    from compressor.store.records import dump_report
    from compressor.store.runfolder import require_place, write_beside

    if out is not None:
        require_place(out)
    job = BenchJob(preset=preset or "default", **options)
    try:
        with Bars(quiet=as_json or not sys.stderr.isatty()) as bars:
            record = run_bench(job, bars, _command_line())
    except KeyboardInterrupt:
        click.echo("interrupted: no block was finished", err=True)
        sys.exit(INTERRUPTED)
    text = dump_report(record)
    if out is not None:
        write_beside(out, text)
    if as_json:
        click.echo(text, nl=False)
    else:
        print_bench(record)
        if out is not None:
            click.echo(f"Measurement  {out}")
    if record.interrupted:
        sys.exit(INTERRUPTED)


@cli.command()
@click.argument("before", type=click.Path(path_type=Path), metavar="A.json")
@click.argument("after", type=click.Path(path_type=Path), metavar="B.json")
@click.option("--arm", metavar="NAME", help="Arm to take from both files.  [default: the candidate, else the first]")
@click.option(
    "--fail-unless",
    "wish",
    type=click.Choice(["better", "not-worse"]),
    help="Exit with 1 unless B is so: by measured energy if there is any, else by CPU time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def compare(before: Path, after: Path, arm: str | None, wish: Any, as_json: bool) -> None:
    """Compare two saved measurements: what 'bench --out' wrote, or a report.json.

    Refuses what cannot be compared: another machine, runtime, batch, threads, inputs or meter.
    """
    from compressor.across import compare_files

    found = compare_files(before, after, arm=arm, wish=wish)
    if as_json:
        import dataclasses

        _print_json(dataclasses.asdict(found))
    else:
        from compressor.console import print_across

        print_across(found)
    if found.gate is not None and not found.gate.met:
        sys.exit(1)


@cli.command()
@click.option("--watch", "live", is_flag=True, help="Show live watts of every readable meter until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON; with --watch one line per second.")
def meters(live: bool, as_json: bool) -> None:
    """List the energy meters: readable here or not, why not, and how to mend it."""
    if live:
        _watch(as_json)
        return
    from compressor.meters.registry import statuses

    found = statuses()
    if as_json:
        import dataclasses

        _print_json([dataclasses.asdict(status) for status in found])
        return
    from compressor.console import print_meters

    print_meters(found)


def _watch(as_json: bool) -> None:
    """Print a line per second; Ctrl-C is how it ends, so that is no failure."""
    from compressor.console import power_line
    from compressor.meters.watch import open_usable, watch

    meters = open_usable()
    try:
        for powers in watch(meters):
            click.echo(power_line(powers, as_json))
            sys.stdout.flush()
    except KeyboardInterrupt:
        return
    finally:
        for meter in meters:
            meter.close()


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

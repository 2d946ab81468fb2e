"""The command line: parse, call one function, print. Heavy imports wait until a command needs them."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import click

from compressor import processes
from compressor.cli.history import history
from compressor.cli.inspect import inspect
from compressor.cli.measure import bench, compare, meters
from compressor.cli.options import INTERRUPTED
from compressor.cli.recipes import recipes
from compressor.cli.report import report
from compressor.cli.run import demo, run_command
from compressor.cli.stream import stream
from compressor.errors import CompressorError, nearest


def _misspelt(word: str) -> bool:
    """Whether this is a command that does not exist, rather than a model that does not."""
    path = Path(word)
    return not word.startswith("-") and path.parent == Path() and not path.suffix and not path.exists()


class _Main(click.Group):
    """A group whose unnamed command is the main job: ``compress model.pt`` needs no verb."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        if args and args[0] not in self.commands and args[0] not in own:
            if _misspelt(args[0]):
                raise CompressorError(
                    "no such file or command", where=args[0], mend=nearest(args[0], self.list_commands(ctx))
                )
            args = ["run", *args]
        elif processes.follows():  # only runs train, and so need more than one process
            ctx.exit()
        else:
            processes.part()
        return super().parse_args(ctx, args or ["--help"])

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in self.commands if name != "run"]

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] MODEL")
        formatter.write_usage(ctx.command_path, "COMMAND [ARGS]...", prefix=" " * 7)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.commands["run"].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="compressor", prog_name="compressor")
def cli() -> None:
    """Compress a trained PyTorch model and prove what it saves.

    Loads MODEL, compresses it, exports it to ONNX, runs the old and the new side by side under energy meters, and
    writes a report: the accuracy kept, the joules per inference, how sure that is, and when the compression has paid
    for itself.
    """


for _command in (run_command, demo, inspect, recipes, bench, compare, meters, report, stream, history):
    cli.add_command(_command)


def _usage_message(error: click.UsageError) -> str:
    """Click's message, with the nearest known name where a name was misspelt."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        known = [name for parameter in error.ctx.command.params for name in parameter.opts if name.startswith("-")]
        return f"there is no option {error.option_name}; {nearest(error.option_name, known)}"
    return " ".join(error.format_message().split())


def main() -> None:
    """Run the command line and exit: 0 done, 1 a check asked for failed, 2 bad input, 130 interrupted."""
    for out in (sys.stdout, sys.stderr):
        if isinstance(out, io.TextIOWrapper):
            # A terminal that knows only ASCII shows ? for an arrow; that is no reason to lose the result.
            out.reconfigure(errors="replace")
    if processes.count() > 1:  # PyTorch says from its C++, in every process, that it could train faster
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if processes.follows():  # the first process meets the same errors, and tells them
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
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
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    finally:
        # Where Ctrl-C strikes in code made from a string (a dataclass in the making), CPython remembers it though it
        # was caught, and ``python -m`` dies of SIGINT at its end whatever the exit code. Running a string forgets it.
        exec("")
    sys.exit(code)

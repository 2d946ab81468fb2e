"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells expect."""


def shapes(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[int, ...], ...] | None:
    """Parse ``--input-shape 1x28x28``, once per input."""
    shapes = []
    for text in values:
        parts = text.lower().replace("×", "x").split("x")
        if not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise click.BadParameter(f"{text!r} is not a shape such as 1x28x28 (without the batch axis)")
        shapes.append(tuple(int(part) for part in parts))
    return tuple(shapes) or None


def names(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Parse ``onnxruntime,torch``."""
    return tuple(part.strip() for part in text.split(",")) if text else ()


def columns(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    """Parse ``question,context``."""
    return tuple(part.strip() for part in text.split(",")) if text else None


def counts(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Parse ``1,8,32``; each number once, in the order given."""
    parts = [part.strip() for part in text.split(",")] if text is not None else []
    if wrong := [part for part in parts if not part.isdecimal()]:
        raise click.BadParameter(f"{wrong[0]!r} is not a number; give one or several such as 1,8,32")
    return tuple(dict.fromkeys(int(part) for part in parts))


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


hugging = together(
    click.option(
        "--hf-task",
        metavar="TASK",
        help="Task of a Hugging Face folder, e.g. text-classification.  [default: by its architecture]",
    ),
    click.option("--trust-remote-code", is_flag=True, help="Run the Python code that a Hugging Face folder brings."),
)

reading = together(
    hugging,
    click.option(
        "--arch",
        metavar="REF",
        help="What builds the module of a state dict or safetensors file: package.module:callable or file.py:callable.",
    ),
    click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        callback=shapes,
        metavar="1x28x28",
        help="Shape of each input without the batch axis, where neither the file nor the data tell.",
    ),
    click.option("--allow-pickle", is_flag=True, help="Load a pickled module, which runs whatever code it holds."),
)

metering = together(
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

judging = together(
    click.option(
        "--data",
        metavar="DATA",
        help="Labelled data: .npz, .npy, .csv, a folder of pictures by class, fashion-mnist, or "
        "package.module:callable; for Hugging Face models also texts (.csv, .jsonl, .parquet, a saved data set) and "
        "sounds (a folder of .wav by class). Without them inputs are drawn at random, and accuracy is not measured.",
    ),
    click.option(
        "--metric", metavar="NAME", help="accuracy, f1, mse, r2, … or package.module:callable.  [default: by the data]"
    ),
    click.option("--target", metavar="COLUMN", help="Column of a CSV, JSON lines or the like that holds the target."),
    click.option(
        "--text",
        callback=columns,
        metavar="COLUMN[,COLUMN]",
        help="Column of the text, or of the two texts of a pair, for a Hugging Face model.  [default: by its name]",
    ),
    click.option(
        "--max-length", type=int, metavar="N", help="Tokens that every text is cut or padded to.  [default: 128]"
    ),
    click.option(
        "--max-loss",
        type=float,
        default=0.01,
        metavar="X",
        show_default=True,
        help="Score that may be lost; 0.01 is one point.",
    ),
)

measuring = together(
    click.option("--quick", "preset", flag_value="quick", help="Measure for about 1 min instead of about 3."),
    click.option("--certify", "preset", flag_value="certify", help="Measure in windows of 10 s, 12 blocks."),
    click.option("--batch", type=int, metavar="N", help="Examples per call.  [default: 1]"),
    click.option("--threads", type=int, default=1, metavar="N", show_default=True, help="Threads of the runtime."),
)

on_device = click.option(
    "--device", default="cpu", metavar="DEVICE", show_default=True, help="Where to run: cpu, cuda or cuda:1."
)
RUNTIMES = "onnxruntime, onnxruntime-tensorrt, openvino, openvino-bf16, torch, torch-compile"


@contextmanager
def taking_up(*, overwrite: bool) -> Iterator[None]:
    """Say after Ctrl-C whether the same command goes on with what is finished; the terminal has printed ^C by then."""
    try:
        yield
    except KeyboardInterrupt:
        rest = "what is finished is kept; the same command goes on from there"
        click.echo(f"\ninterrupted: {'the same command starts over' if overwrite else rest}", err=True)
        sys.exit(INTERRUPTED)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2, default=str))


def command_line() -> str:
    """The command as it was typed, for the report."""
    return shlex.join(["compress", *sys.argv[1:]])

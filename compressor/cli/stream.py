"""``compress stream``: quantize a checkpoint that may be larger than memory."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from compressor.cli.options import print_json, taking_up

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def _size(_: click.Context, __: click.Parameter, text: str) -> int:
    """Parse ``2GB``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?b?)", text.strip(), re.IGNORECASE)
    unit = found[2].upper() if found else ""
    unit = unit if unit.endswith("B") or not unit else f"{unit}B"
    if found is None:
        raise click.BadParameter(f"{text!r} is not a size such as 2GB or 500MB")
    return round(float(found[1]) * _UNITS[unit])


@click.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option(
    "--bits", type=click.Choice(["4", "8"]), default="4", show_default=True, help="Of a weight; activations stay float."
)
@click.option(
    "--block", "block_size", type=int, metavar="N", help="Weights per scale at 4 bits: 32, 64 or 128.  [default: 64]"
)
@click.option("--symmetric", is_flag=True, help="No zero points at 4 bits: smaller, and a little less exact.")
@click.option(
    "--rule",
    "rules",
    multiple=True,
    metavar="RULE",
    help="Which layers, e.g. 'exclude model.layers.0.*'; may be repeated.  [default: all linear ones but the head]",
)
@click.option(
    "--max-shard", "shard_bytes", callback=_size, default="2GB", metavar="SIZE", show_default=True, help="Of one file."
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder to write.  [default: compressed/NAME-int4]"
)
@click.option("--overwrite", is_flag=True, help="Start over, and replace what is in the folder.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="TEXT",
    help="Text file: perplexity of both, and how often they agree on the next token, where both fit in memory.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def stream(model: Path, as_json: bool, data: Path | None, bits: str, **options: Any) -> None:
    """Quantize a Hugging Face checkpoint, tensor by tensor.

    Memory holds a few rows of one tensor at a time, so the checkpoint may be larger than memory. After an interrupt the
    same command goes on with the tensor it was at, to the same bytes. 'compress bench --prompt-tokens' runs the result.
    """
    from compressor.console import Bars, print_streamed
    from compressor.model.hf_folder import resolve
    from compressor.streaming.write import StreamJob, stream

    job = StreamJob(model=resolve(model), bits=int(bits), **options)
    scores = task = None
    if data is not None:
        from compressor.streaming.score import open_scoring, score_both

        task = open_scoring(job.model, data)
    with taking_up(overwrite=job.overwrite), Bars(quiet=as_json or not sys.stderr.isatty()) as bars:
        bars.stage("quantize", resumed=False)
        found = stream(job, bars.progress)
        if task is not None:
            bars.stage("score both", resumed=False)
            scores = score_both(task, job.model, found.folder)
    if as_json:
        print_json({**asdict(found), "scores": scores and asdict(scores)})
    else:
        print_streamed(found, scores)

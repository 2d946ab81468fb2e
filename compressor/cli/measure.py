"""``compress bench``, ``compare`` and ``meters``: measuring without compressing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from compressor.cli.history import keep, place
from compressor.cli.options import (
    INTERRUPTED,
    RUNTIMES,
    command_line,
    counts,
    hugging,
    judging,
    metering,
    names,
    on_device,
    print_json,
)


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="A B...")
@click.option(
    "--runtime",
    "runtimes",
    callback=names,
    metavar="NAME,...",
    help=f"One for all files, or one per file, of {RUNTIMES}.  [default: by the file's format]",
)
@click.option("--each", is_flag=True, help="Run every file on every --runtime that can run it.")
@on_device
@click.option("--batch", "batches", callback=counts, metavar="N,...", help="Examples per call.  [default: 1]")
@click.option("--threads", callback=counts, default="1", metavar="N,...", show_default=True, help="Of the runtime.")
@click.option("--quick", "preset", flag_value="quick", help="Measure for about 1 min per run instead of about 3.")
@click.option("--certify", "preset", flag_value="certify", help="Measure in windows of 10 s, 12 blocks.")
@metering
@judging
@hugging
@click.option(
    "--prompt-tokens",
    type=int,
    metavar="N",
    help="Measure causal language models (Hugging Face folders, ONNX with a cache) per token, prefill of N tokens and "
    "decode apart; --data is a text file.  [default: 128, if --new-tokens is given]",
)
@click.option(
    "--new-tokens", type=int, metavar="M", help="Tokens to decode.  [default: 32, if --prompt-tokens is given]"
)
@click.option("--seed", type=int, default=0, metavar="N", show_default=True, help="Of everything random.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Keep the measurement, for 'compress compare'.  [default: print only]",
)
@place
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON and nothing else.")
def bench(as_json: bool, out: Path | None, preset: str | None, history_file: str | None, **options: Any) -> None:
    """Measure models side by side; the first is the baseline.

    They are .onnx and .pt2 files and Hugging Face folders. A second worker on the first file (the A/A control) says how
    small a difference can be seen.
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
            record = run_bench(job, bars, command_line())
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
    keep(record, out, history_file, None, quiet=as_json)
    if record.interrupted:
        sys.exit(INTERRUPTED)


@click.command()
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
    """Compare two saved measurements.

    Each is what 'bench --out' wrote, or a report.json. What cannot be compared is refused: another machine, runtime,
    batch, threads, inputs or meter.
    """
    from compressor.across import compare_files

    found = compare_files(before, after, arm=arm, wish=wish)
    if as_json:
        import dataclasses

        print_json(dataclasses.asdict(found))
    else:
        from compressor.console import print_across

        print_across(found)
    if found.gate is not None and not found.gate.met:
        sys.exit(1)


@click.command()
@click.option("--watch", "live", is_flag=True, help="Show live watts of every readable meter until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON; with --watch one line per second.")
def meters(live: bool, as_json: bool) -> None:
    """List the energy meters: which can be read here, and why not."""
    if live:
        _watch(as_json)
        return
    from compressor.meters.registry import statuses

    found = statuses()
    if as_json:
        import dataclasses

        print_json([dataclasses.asdict(status) for status in found])
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

"""Make the files that the suite measures: ``python -m benchmarks.prepare [CASE…] [--only PART]``.

Fetches data and weights, trains each model once, compresses it, and has the peers make theirs. Everything is kept in
``benchmarks/.cache``; what is there already is not made again unless ``--only`` names it. ``int8`` decides by timing
which layers pay, so end with ``--only int8`` on a machine that does nothing else.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable

import click

# Threads that wait at a barrier give their core away; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.arms import INT8, MIX, MIX_FP32, ONNX, PYTORCH, Workshop, elsewhere, known
from benchmarks.cases import CASES
from benchmarks.peers import PEERS
from compressor.environment import cpu_features
from compressor.errors import CompressorError, nearest

if {"avx512_bf16", "amx_bf16"} & set(cpu_features()):
    # Distillation's products in bfloat16, at half the time; weights and what is measured stay as they are.
    os.environ.setdefault("ACCELERATE_MIXED_PRECISION", "bf16")

PARTS: dict[str, tuple[Callable[[Workshop], None], Callable[[str], Iterable[str]]]] = {
    "baseline": (Workshop.baselines, lambda case: (PYTORCH, ONNX)),
    "mix": (Workshop.trained, lambda case: (MIX_FP32,)),
    "int8": (Workshop.quantized, lambda case: (INT8, MIX)),
    "peers": (Workshop.peers, lambda case: PEERS),
    "runtimes": (Workshop.runtimes, elsewhere),
}
"""Part to what makes it, and to the arms of a case that it makes; each part needs those before it."""


@click.command()
@click.argument("names", nargs=-1)
@click.option("--only", type=click.Choice(list(PARTS)), help="Make this part alone, and anew.")
def main(names: tuple[str, ...], only: str | None) -> None:
    """Make the files of the cases NAMES, or of all."""
    check_names(names)
    # Some libraries warn of what they do themselves, in every call.
    warnings.simplefilter("ignore")
    for name in names or CASES:
        print(f"{name}: {CASES[name].about}", flush=True)
        workshop, started = Workshop(name), time.perf_counter()
        for part, (make, arms) in PARTS.items():
            if part == only or (only is None and any(known(name, arm) is None for arm in arms(name))):
                make(workshop)
        print(f"{name}: ready, {time.perf_counter() - started:.0f} s", flush=True)


def check_names(names: tuple[str, ...]) -> None:
    """Refuse a case that there is not."""
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise click.UsageError(f"no case {unknown[0]!r}; {nearest(unknown[0], CASES)}")


if __name__ == "__main__":
    try:
        main()
    except CompressorError as error:
        sys.exit(f"error: {error}")

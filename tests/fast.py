"""The command line with windows of 50 ms: for tests of what happens, never of what it costs. Run as a script."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from compressor.benchmark import plan, runner
from compressor.environment import describe_environment


def hurry() -> None:
    """Shorten every preset, warm up by one call, and measure on a busy machine too, which is not watched before."""
    runner.FOREIGN_LOAD_LIMIT = 2.0
    runner.describe_environment = partial(describe_environment, 0.0)
    for name, preset in plan.PRESETS.items():
        plan.PRESETS[name] = replace(preset, blocks=3, window_s=0.05, idle_s=0.05, warmup_limit_s=0.0)


@contextmanager
def hurried() -> Iterator[None]:
    """:func:`hurry`, and afterwards everything as it was."""
    presets, limit = dict(plan.PRESETS), runner.FOREIGN_LOAD_LIMIT
    hurry()
    try:
        yield
    finally:
        plan.PRESETS.update(presets)
        runner.FOREIGN_LOAD_LIMIT, runner.describe_environment = limit, describe_environment


if __name__ == "__main__":
    from compressor.cli import main

    hurry()
    main()

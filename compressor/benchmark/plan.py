"""How long to measure: the presets, and the same plan for every arm."""

from __future__ import annotations

from dataclasses import replace

from compressor.errors import RecipeError, nearest
from compressor.results import Plan

LOAD_S = 0.7
"""Seconds to start a worker and load a small model, as a guess for the progress bar."""

MOST_THREADS = 1024
"""Runtimes start as many as they are told; far more than any machine has cores ends in a crash."""

PRESETS = {
    "quick": Plan("quick", batch=1, threads=1, blocks=5, window_s=1.0, idle_s=1.0, warmup_limit_s=4.0, seed=0),
    "default": Plan("default", batch=1, threads=1, blocks=10, window_s=1.25, idle_s=2.0, warmup_limit_s=6.0, seed=0),
    "certify": Plan("certify", batch=1, threads=1, blocks=12, window_s=10.0, idle_s=10.0, warmup_limit_s=60.0, seed=0),
}


def make_plan(preset: str = "default", *, batch: int = 1, threads: int = 1, seed: int = 0) -> Plan:
    """A preset with the user's batch size, threads and seed.

    Args:
        preset: ``quick`` (about 1 min for three arms), ``default`` (about 3 min) or ``certify`` (windows of 10 s).
        batch: Examples per call, at least 1.
        threads: Threads of the runtime, at least 1.
        seed: Of the order of the arms.

    Returns:
        The plan.

    Raises:
        RecipeError: Unknown preset, or a number out of range.
    """
    if preset not in PRESETS:
        raise RecipeError(f"no preset {preset!r}; {nearest(preset, PRESETS)}", where="--preset")
    for option, value in (("--batch", batch), ("--threads", threads)):
        if value < 1:
            raise RecipeError(f"must be at least 1, not {value}", where=option)
    if not 0 <= seed < 2**32:
        raise RecipeError(f"must be from 0 to {2**32 - 1}, not {seed}", where="--seed")
    if threads > MOST_THREADS:
        raise RecipeError(f"must be at most {MOST_THREADS}, not {threads}", where="--threads")
    return replace(PRESETS[preset], batch=batch, threads=threads, seed=seed)


def units_per_call(plan: Plan) -> int:
    """How many examples one call takes; tokens, if the plan has a workload."""
    if plan.workload is None:
        return plan.batch
    tokens = plan.workload.prompt_tokens if plan.workload.phase == "prefill" else plan.workload.new_tokens
    return plan.batch * tokens


def expected_s(plan: Plan, arms: int) -> float:
    """Seconds that the plan takes for so many arms that load quickly, nothing discarded."""
    warm_up_s = (plan.blocks + 1) * plan.warmup_limit_s / 8
    return plan.blocks * arms * (LOAD_S + 2 * plan.window_s) + arms * warm_up_s + 3 * plan.idle_s

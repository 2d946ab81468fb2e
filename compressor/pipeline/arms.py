"""Which arms the measurement has: every model file on every runtime that was asked for and opens it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from compressor.benchmark.runner import Arm
from compressor.errors import RuntimeUnavailableError
from compressor.runtimes.device import CPU
from compressor.runtimes.registry import FORMATS, open_session, opens, require
from compressor.task.base import Task

TWIN = " (A/A)"
"""What the name of the A/A control has behind that of the arm whose twin it is."""


def spread(arms: Sequence[Arm], runtimes: Sequence[str], device: str, task: Callable[[], Task]) -> list[Arm]:
    """Put every file on every runtime that opens it, and add the A/A twin.

    A file that none of them opens stays on its usual runtime: what the user runs today is always measured, unless that
    runtime does not know the device. The candidate is the chosen file on the first runtime; on others it is
    listed as a stage.

    Args:
        arms: One per file, each on its usual runtime, on the CPU.
        runtimes: Names in the user's order; empty for the usual ones.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        task: Gives the data and the score, for arms that compute otherwise than the file was scored.

    Returns:
        The arms; the last is the twin of the baseline on the candidate's runtime, or else of the last baseline.
    """
    found: list[Arm] = []
    for arm in arms:
        usual = FORMATS[arm.path.suffix]
        chosen = [name for name in runtimes if opens(name, arm.path)] or ([usual] if _knows(usual, device) else [])
        for index, name in enumerate(chosen):
            role = "stage" if arm.role == "candidate" and index else arm.role
            one = replace(
                arm,
                name=arm.name if name == usual else f"{arm.name} on {name}",
                role=role,
                runtime=None if name == usual else name,
                device=device,
            )
            found.append(one if name == usual and device == CPU else _scored(one, task()))
    candidate = next(arm for arm in found if arm.role == "candidate")
    baselines = [arm for arm in found if arm.role == "baseline"]
    alike = [arm for arm in baselines if _runtime(arm) == _runtime(candidate)]
    original = (alike or baselines)[-1]
    return [*found, replace(original, name=f"{original.name}{TWIN}", role="control")]


def _runtime(arm: Arm) -> str:
    return arm.runtime or FORMATS[arm.path.suffix]


def _knows(runtime: str, device: str) -> bool:
    try:
        require([runtime], device)
    except RuntimeUnavailableError:
        return False
    return True


def _scored(arm: Arm, task: Task) -> Arm:
    """The arm with the kernels and the score that it has on its own runtime and device."""
    session = open_session(arm.path, arm.runtime, threads=os.cpu_count() or 1, device=arm.device)
    return replace(arm, kernels=session.kernels(), score=task.evaluate(session.predict))

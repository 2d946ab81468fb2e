"""Results of the measuring scripts: one JSON each, with the machine that it was measured on."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from compressor.environment import describe_environment
from compressor.results import Environment
from compressor.store.runfolder import write_beside

RESULTS = Path(__file__).parent / "results"


def save(name: str, command: str, found: dict[str, object], machine: Environment | None) -> Path:
    """Write ``results/NAME.json``.

    Args:
        name: The script's name.
        command: What repeats it.
        found: The figures, as JSON has them.
        machine: Where, described before the measurement; ``None`` for what does not depend on the machine.
    """
    RESULTS.mkdir(exist_ok=True)
    record = {
        "command": command,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": None if machine is None else asdict(machine),
        **found,
    }
    path = RESULTS / f"{name}.json"
    write_beside(path, json.dumps(record, indent=1) + "\n")
    return path


def machine(quiet_below: float = 0.15) -> Environment:
    """This machine; says so if it is too busy for a figure that means anything."""
    found = describe_environment()
    if found.foreign_load > quiet_below:
        print(f"! other processes keep {found.foreign_load:.0%} of the cores busy: these figures are not sound")
    return found

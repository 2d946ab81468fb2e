"""Write what the ready recipes reached into them: ``python -m benchmarks.reached``, from ``benchmarks/results/``.

Each recipe's block ``reached`` is written anew from the records of the cases that it compresses; a recipe without any
stays as it is.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from benchmarks.arms import MIX, ONNX, PYTORCH
from benchmarks.cases import CASES
from benchmarks.recording import RESULTS
from compressor import compare
from compressor.recipe import READY
from compressor.report import numbers
from compressor.store.runfolder import write_beside

_BLOCK = re.compile(r"^reached:\n(?:[ \t]+.*\n)+", re.MULTILINE)


def reached(names: list[str]) -> dict[str, str]:
    """What a recipe reached on the cases that have results, as its block holds it; empty if none has."""
    records = {name: json.loads(path.read_bytes()) for name in names if (path := RESULTS / f"{name}.json").exists()}
    if not records:
        return {}
    first = next(iter(records.values()))
    machine = first["environment"]
    where = f"{machine['cores']} cores of an {machine['cpu'].strip()}" + (", virtual" if machine["virtual"] else "")
    vnni = "with" if any("vnni" in feature for feature in machine["cpu_features"]) else "without"
    found = {
        "model": "; ".join(f"{name}: {record['about']}" for name, record in records.items()),
        "machine": f"{where}, {vnni} VNNI, one thread, batch 1, {first['created_utc'][:10]}",
    }
    for name, record in records.items():
        found[name] = _figures(record["runs"][0]["arms"]) + _changes(name)
    found["command"] = f"python -m benchmarks.prepare {' '.join(records)} && python -m benchmarks {' '.join(records)}"
    return found


def _figures(arms: dict[str, Any]) -> str:
    times = []
    for baseline in (PYTORCH, ONNX):
        delta = arms[MIX][f"against {baseline}"][compare.CPU_TIME]
        times.append(f"{numbers.speed(delta['ratio'], delta['ci95'])} than {baseline}")
    size = 1 - arms[MIX]["size_bytes"] / arms[ONNX]["size_bytes"]
    scores = f"accuracy {arms[ONNX]['score']:.2%} -> {arms[MIX]['score']:.2%}"
    return f"CPU time {', '.join(times)}; {size:.0%} smaller; {scores}".replace("×", "x")


def _changes(name: str) -> str:
    changed = CASES[name].changed
    text = "; ".join(
        f"{method} {', '.join(f'{key} {value}' for key, value in settings.items())}"
        for method, settings in changed.items()
    )
    return f" (with {text})" if text else ""


def write(path: Path, found: dict[str, str]) -> None:
    """Put the block into a recipe's file, behind ``about``; the rest stays as it is."""
    block = yaml.safe_dump({"reached": found}, sort_keys=False, allow_unicode=True, width=10_000)
    text = _BLOCK.sub("", path.read_text(encoding="utf-8"))
    write_beside(path, re.sub(r"^methods:", lambda _: f"{block}methods:", text, count=1, flags=re.MULTILINE))


def main() -> None:
    for recipe in sorted({case.recipe for case in CASES.values()}):
        found = reached([name for name, case in CASES.items() if case.recipe == recipe])
        print(f"{recipe}: {'no results yet' if not found else 'written'}")
        if found:
            write(READY / f"{recipe}.yaml", found)


if __name__ == "__main__":
    main()

"""The suite's results as Markdown: ``python -m benchmarks.table``, from the records in ``benchmarks/results/``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from benchmarks.arms import INT8, MIX, ONNX, PYTORCH, elsewhere
from benchmarks.cases import CASES
from benchmarks.peers import PEERS
from benchmarks.recording import RESULTS
from compressor import compare
from compressor.report import numbers

Row = dict[str, Any]


def main() -> None:
    runs = list(_runs())
    if not runs:
        print("no results yet: python -m benchmarks")
        return
    print("CPU time per inference, 95 % intervals, and the score on the whole test part.\n")
    _print(["case", ONNX, INT8, MIX, "mix against PyTorch fp32"])
    for name, run in runs:
        arms = run["arms"]
        runtime = f"{_times(arms[ONNX], PYTORCH)} against PyTorch"
        cells = [_with_score(runtime, arms[ONNX]), *(_cell(arms[arm]) for arm in (INT8, MIX))]
        _print([_title(name, run), *cells, _saved(arms[MIX], PYTORCH)])
    print("\nWhat a user would pick instead.\n")
    _print(["case", *PEERS, "mix against the best of them within 1 point"])
    for name, run in runs:
        best = run["against_best_peer"].get("within the margin")
        against = f"{_speed(best[MIX][compare.CPU_TIME])}, {best['peer']}" if best else "none is"
        _print([_title(name, run), *(_cell(run["arms"][peer]) for peer in PEERS), against])
    for name, run in runs:
        if others := [arm for arm in elsewhere(name) if arm in run["arms"]]:
            print(f"\nOther runtimes, {name}.\n")
            _print(["arm", f"against {ONNX}", f"against {PYTORCH}"])
            for arm in (PYTORCH, ONNX, INT8, MIX, *others):
                row = run["arms"][arm]
                cells = [_times(row, baseline) if baseline != arm else "1" for baseline in (ONNX, PYTORCH)]
                _print([arm, _with_score(cells[0], row), cells[1]])


def _print(cells: list[str]) -> None:
    """A line of a table; behind the first line of one comes its rule."""
    print(f"| {' | '.join(cells)} |")
    if cells[0] in ("case", "arm"):
        print("|" + " --- |" * len(cells))


def _title(name: str, run: Row) -> str:
    return f"`{name}`" if run["batch"] == 1 else f"`{name}`, batch {run['batch']}"


def _cell(row: Row) -> str:
    return _with_score(_times(row, ONNX), row) if "score" in row else "failed"


def _with_score(text: str, row: Row) -> str:
    return f"{text}; {row['score']:.2%}"


def _runs() -> Iterator[tuple[str, Row]]:
    for name in CASES:
        path = RESULTS / f"{name}.json"
        if path.exists():
            for run in json.loads(path.read_bytes())["runs"]:
                yield name, run


def _times(row: Row, baseline: str) -> str:
    return _speed(row[f"against {baseline}"][compare.CPU_TIME])


def _saved(row: Row, baseline: str) -> str:
    delta = row[f"against {baseline}"][compare.CPU_TIME]
    return f"{_speed(delta)}, {1 - delta['ratio']:.1%} less"


def _speed(delta: Row) -> str:
    return numbers.speed(delta["ratio"], delta["ci95"])


if __name__ == "__main__":
    main()
